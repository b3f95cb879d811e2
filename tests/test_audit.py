"""The audit: accounts hold at the epsilon that they claim, one that is wrong by a tenth does not, and the estimator is right."""

from __future__ import annotations

import importlib
import json
from math import exp, sqrt
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import stats
from scipy.special import ndtr

from fedwarm.coding.streams import Stream
from fedwarm.privacy.events import RandomCoding
from tests.benches import loaded

QUICK = {
    "code words, large epsilon": 360, "one block at the rule's edge": 3000, "few bits, outside the rule": 9000,
    "single bits": 9000, "Gaussian, one round": 900, "Gaussian, four rounds": 600, "dp-sgd, 1,000 steps": 1400,
    "sums of 40, limit": 9000, "sums, sampled, limit": 9000, "sums of 40, certified": 9000, "sums, sampled, certified": 9000,
    "noise of the server, one round": 1500,
}  # fmt: skip
"""Settings of the table that take less than a second for so many runs."""


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        return loaded(patch, "dp_rec_audit")


@pytest.fixture(scope="module")
def games(audit: ModuleType) -> ModuleType:
    return importlib.import_module("audit_games")


@pytest.fixture(scope="module")
def estimate(audit: ModuleType) -> ModuleType:
    return importlib.import_module("audit_estimate")


# Accounts


@pytest.mark.parametrize("name", QUICK)
def test_an_account_holds_and_one_that_is_wrong_by_a_tenth_does_not(audit: ModuleType, name: str) -> None:
    """The true delta is surely at most the claimed one; at nine tenths of epsilon, or of the noise, it is surely more.

    The certificate of central sums is looser, as its bound is known to be: it is 0.6 and 0.75 of epsilon there.
    """
    setting, runs = setting_of(audit, name), QUICK[name]
    row = audit.audit(setting, runs, 3)
    assert row.at.high <= setting.delta < row.below.low and row.off < audit.ALARM
    if setting.share == 0.9:
        assert audit.audit(setting, runs, 3, "sigma").at.low > setting.delta
    else:
        assert "certified" in name


def test_steps_of_dp_sgd_hold_by_the_mechanism_itself(audit: ModuleType) -> None:
    """Rows, clip, noise and opacus' sum; with a tenth less noise the account does not."""
    setting = setting_of(audit, "dp-sgd, one step")
    row = audit.audit(setting, 210, 2)
    assert row.at.high <= setting.delta < row.below.low and row.off < audit.ALARM
    assert audit.audit(setting, 210, 2, "sigma").at.low > setting.delta


def test_code_words_hold_by_the_codec_itself(audit: ModuleType) -> None:
    """So few runs do not refute the claim, and see that seven tenths of it are too little."""
    setting = setting_of(audit, "code words, one message")
    sample = audit.Sample(setting.play(120, 0, 1.0))
    assert sample.delta(setting.claimed).low <= setting.delta < sample.delta(0.7 * setting.claimed).low
    assert sample.off() < audit.ALARM


def test_exact_code_words_hold_by_the_codec_itself(audit: ModuleType, games: ModuleType) -> None:
    """What is decoded is the update plus normal noise: mean weights are 1 out to four times the update's length."""
    codec = audit.PoissonCodec(16 * games.NUMBERS, 1.0, 0.5, audit.even(16 * games.NUMBERS, 16))
    laws = [games.Law(scale) for scale in (1.0, 0.0, 4.0, -4.0)]
    assert audit.Sample(games.play_exact(codec, laws, 100, 0)).off() < audit.ALARM


def test_a_client_that_does_not_clip_is_found_out(audit: ModuleType, games: ModuleType) -> None:
    """A canary of 3 C does not come from the law that the account prices, which mean weights tell."""
    codec, laws = games.codec_of(5, 4, 0.5), [games.Law(1.0), games.Law(0.0), games.Law(-1.0)]
    right, wrong = (
        audit.Sample(games.play_coding(codec, laws, 120, 1, 0, used)).off() for used in (None, games.codec_of(5, 4, 4.5))
    )
    assert right < audit.ALARM < wrong


def test_the_canary_costs_what_the_account_prices(games: ModuleType) -> None:
    for codec in (games.codec_of(5, 4, 0.5), games.codec_of(6, 16, 2.0, "hadamard")):
        stream = Stream(1, 1, 1)
        v = codec.prepare(games.canary_of(codec, stream.rotation()), stream)
        spent = sorted((float(x) for x in codec.blocks.squares(v) if x > 1e-12), reverse=True)
        worst = RandomCoding.of(codec.bits, codec.energy, codec.caps).worst()
        wanted = sorted((x for x, count in worst for _ in range(count) if x > 1e-12), reverse=True)
        np.testing.assert_allclose(spent, wanted, rtol=1e-9)


@pytest.mark.parametrize(("bits", "norm"), [(2, 1.0), (5, 0.5)])
def test_the_law_of_a_chosen_candidate_is_the_codecs(games: ModuleType, bits: int, norm: float) -> None:
    """Along the update, against the density out of which the sums of central views are made."""
    codec = games.codec_of(bits, 1, norm**2)
    canary = games.canary_of(codec, Stream(0, 1, 0).rotation())
    t = []
    for i in range(400):
        stream, source = Stream(5, 1, i), games.draws(5, i)
        t.append(float(codec.candidate(codec.encode(canary, stream, source), stream) @ canary) / norm)
    grid = np.arange(-6.0, 6.0, 0.05)
    density = np.exp(games.log_ratio(grid, bits, norm) - grid**2 / 2)
    ends = np.cumsum(density) / density.sum()
    assert stats.ks_1samp(t, lambda x: np.interp(x, grid + 0.025, ends)).pvalue > 0.001


def test_sums_spread_as_they_must(games: ModuleType) -> None:
    """Mean and variance of n coordinates, from those of one."""
    t, alone, none = games.sums_of(7, 1.0, 1)
    s, present, absent = games.sums_of(7, 1.0, 40)
    assert float(t @ none) == pytest.approx(0.0, abs=1e-9) and float(t**2 @ none) == pytest.approx(1.0, abs=1e-9)
    assert float(s @ present) - float(s @ absent) == pytest.approx(float(t @ alone), abs=1e-6)
    spread = [float(x**2 @ p) - float(x @ p) ** 2 for x, p in ((s, present), (t, alone))]
    assert spread[0] == pytest.approx(40 * spread[1], rel=1e-6)


# The estimator


def normal_delta(shift: float, epsilon: float) -> float:
    """Of two normals a distance apart (Balle, Wang, arXiv 1805.06530, theorem 5)."""
    return float(ndtr(shift / 2 - epsilon / shift) - exp(epsilon) * ndtr(-shift / 2 - epsilon / shift))


def two_normals(seed: int, shift: float, runs: int = 1000) -> np.ndarray:  # type: ignore[type-arg]
    """Logs of draws from N(shift, 1), N(0, 1) and two normals beyond them."""
    means = np.array([shift, 0.0, 5.0, -5.0])
    x = np.random.default_rng(seed).normal(np.resize(means, runs))
    return np.asarray(x[:, None] * means - means**2 / 2)


def test_limits_hold_as_often_as_they_say(estimate: ModuleType) -> None:
    """Two normals a distance of 1 apart, at deltas of 1e-2 to 1e-8: a tenth of 100 may fail, and what chance adds."""
    most = stats.binom.ppf(0.99, 100, 0.1) / 100
    for epsilon in (2.3, 4.4, 5.8):
        true = normal_delta(1.0, epsilon)
        found = [estimate.Sample(two_normals(seed, 1.0)).delta(epsilon, 0.9) for seed in range(100)]
        assert np.mean([each.low > true for each in found]) <= most
        assert np.mean([each.high < true for each in found]) <= most
        assert np.mean([each.value for each in found]) == pytest.approx(true, rel=0.1)


def test_epsilon_is_where_the_estimate_is_delta(estimate: ModuleType) -> None:
    sample = estimate.Sample(two_normals(0, 1.0, 20_000))
    assert sample.epsilon(1e-5) == pytest.approx(4.377, abs=0.03)
    assert estimate.Sample(two_normals(0, 1e-3)).epsilon(0.5) == 0.0


def test_a_law_that_is_not_the_one_said_is_found_out(estimate: ModuleType) -> None:
    """Draws a tenth too far out, against the densities of those that are not."""
    means = np.array([1.0, 0.0, 5.0, -5.0])
    x = np.random.default_rng(0).normal(np.resize(means, 4000))
    right, wrong = (estimate.Sample(factor * x[:, None] * means - means**2 / 2).off() for factor in (1.0, 1.1))
    assert right < 4 < wrong


def test_weights_have_a_ceiling(estimate: ModuleType) -> None:
    weights = estimate.Sample(two_normals(0, sqrt(2))).weights
    assert weights.min() >= 0 and weights.max() <= 4 and np.allclose(weights.mean(axis=1), 1)


# The command


def setting_of(audit: ModuleType, name: str) -> object:
    return next(setting for make in audit.SETTINGS if (setting := make()).name == name)


def test_the_command(audit: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "audit.json"
    assert audit.main(["--only", "single bits", "--out", str(out)]) == 0
    (row,) = json.loads(out.read_text())["rows"]
    assert row["at"]["high"] <= row["delta"] < row["below"]["low"]
    assert "0 of 1 may be passed" in capsys.readouterr().out
    assert audit.main(["--only", "single bits", "--wrong", "sigma"]) == 1
    assert "**above**" in capsys.readouterr().out


def test_what_the_command_cannot_do_is_refused(audit: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    for given in (["--share", "0"], ["--only", "nothing"]):
        with pytest.raises(SystemExit):
            audit.main(given)
        assert "needed are a setting, and a share" in capsys.readouterr().err

"""DP-REC: what follows from the settings, on both sides alike, and the mean estimation that its design was computed for."""

from __future__ import annotations

from dataclasses import replace
from math import log, sqrt

import numpy as np
import pytest

from fedwarm.codecs.dp_rec.account import statement, terms_of
from fedwarm.codecs.dp_rec.plan import block_norm, blocks_of, codec_of, release_of, rotation_of, sigma_of
from fedwarm.codecs.dp_rec.public import step
from fedwarm.codecs.dp_rec.settings import DpRec, validated
from fedwarm.coding.rotation import padded
from fedwarm.coding.streams import Stream
from fedwarm.privacy.accountant import epsilon_of
from fedwarm.privacy.events import Gaussian, RandomCoding, curves
from fedwarm.privacy.views import VIEWS
from fedwarm.settings.fields import SettingError

SIZES = (300, 40, 1000)


def test_the_codec_and_the_account_speak_of_the_same_caps() -> None:
    """The sensitivity that is priced is the one that is enforced, for every rule and magnitude."""
    profile = np.random.default_rng(0).standard_cauchy(sum(SIZES))
    for rule in ("fixed_size", "per_tensor", "kl_adaptive"):
        for magnitude in ("clip", "scale"):
            settings = DpRec(block_rule=rule, magnitude=magnitude, sigma=0.2)
            codec = codec_of(settings, SIZES, 0.2, profile)
            release = release_of(settings, SIZES, 0.2, codec.blocks)
            assert isinstance(release, RandomCoding)
            assert release.energy == codec.energy == pytest.approx(25.0)
            priced = np.sort(np.repeat([c for c, _ in release.caps], [n for _, n in release.caps]))
            assert priced.size == len(codec.blocks) and (priced >= np.sort(codec.caps) * (1 - 1e-12)).all()
            if len(set(codec.caps.tolist())) <= 16:
                np.testing.assert_allclose(priced, np.sort(codec.caps))


@pytest.mark.parametrize("rule", ["fixed_size", "per_tensor", "kl_adaptive"])
def test_a_message_goes_there_and_comes_back(rule: str) -> None:
    settings = DpRec(block_rule=rule, sigma=0.2, bits=5)
    client, server = codec_of(settings, SIZES, 0.2), codec_of(settings, SIZES, 0.2)
    update = np.random.default_rng(0).normal(size=sum(SIZES))
    words = client.encode(update, Stream(1, 1, 0))
    assert len(words) == server.words_bytes and np.array_equal(
        server.decode(words, Stream(1, 1, 0)), client.decode(words, Stream(1, 1, 0))
    )


def test_auto_rotates_where_blocks_know_nothing_of_tensors() -> None:
    assert rotation_of(DpRec()) == "hadamard" and rotation_of(DpRec(rotation="qr")) == "qr"
    assert rotation_of(DpRec(block_rule="per_tensor")) == rotation_of(DpRec(block_rule="kl_adaptive")) == "none"
    assert blocks_of(DpRec(block_rule="per_tensor"), SIZES, 1.0).sizes == SIZES
    assert blocks_of(DpRec(), SIZES, 1.0).total == padded(1340, "hadamard") == 2048
    assert blocks_of(DpRec(block_size=100), SIZES, 1.0).sizes == (100,) * 20 + (48,)


@pytest.mark.parametrize("bits", [1, 2, 4, 7, 10, 16])
def test_blocks_suit_their_bits(bits: int) -> None:
    """c <= 1 and b >= 3.46 c at delta = 1e-5; there a block costs at most some percent more than the Gaussian mechanism."""
    assert block_norm(bits, 1e-5) == pytest.approx(min(1.0, bits / 3.46), rel=1e-2)
    settings = DpRec(bits=bits, clip=1.0)
    cut = blocks_of(settings, SIZES, 0.25)
    c = sqrt(16.0 / len(cut))
    assert c <= block_norm(bits, 1e-5) * 1.0001
    assert len(cut) == 1 or sqrt(16.0 / (len(cut) - 1)) > block_norm(bits, 1e-5)


def test_sigma_as_set_as_calibrated_or_from_the_multiplier() -> None:
    terms = terms_of(DpRec(), 1000, 100, 20, 2)
    assert sigma_of(DpRec(sigma=0.3, target_epsilon=1.0), SIZES, terms) == 0.3
    assert sigma_of(DpRec(noise_multiplier=2.0, clip=3.0), SIZES, terms) == pytest.approx(2 * 3 / 10)
    central = terms_of(DpRec(view="central_limit"), 1000, 100, 20)
    assert sigma_of(DpRec(view="central_limit"), SIZES, central) == pytest.approx(2 / sqrt(central.slots.count))


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("mechanism", ["coding", "gaussian"])
def test_a_target_is_met_and_not_wasted(view: str, mechanism: str) -> None:
    settings = DpRec(view=view, mechanism=mechanism, target_epsilon=6.0)
    terms = terms_of(settings, 300, 50, 8)
    sigma = sigma_of(settings, SIZES, terms)
    assert 5.9 < terms.epsilon(release_of(settings, SIZES, sigma)) <= 6.0


def test_noise_scales_with_the_clip() -> None:
    one, ten = (
        sigma_of(s, SIZES, terms_of(s, 50, 10, 5)) for s in (DpRec(target_epsilon=5.0), DpRec(target_epsilon=5.0, clip=10.0))
    )
    assert ten == pytest.approx(10 * one, rel=1e-3)


def test_coding_costs_about_what_the_gaussian_mechanism_does() -> None:
    """At b = 7 the noise for the same epsilon is within a few percent; with two bits for one round's nat it is not."""
    settings = DpRec(target_epsilon=5.0)
    terms = terms_of(settings, 50, 10, 1)
    coded, plain = (sigma_of(replace(settings, mechanism=m), SIZES, terms) for m in ("coding", "gaussian"))
    assert plain * 0.99 < coded < plain * 1.05
    coarse = sigma_of(replace(settings, bits=2, block_size=2048), SIZES, terms)
    assert coarse > 1.08 * plain


@pytest.mark.parametrize(("blocks", "bits", "error"), [(6, 7, 0.1045), (12, 7, 0.0904), (25, 7, 0.0860), (6, 10, 0.0877)])
def test_mean_estimation_has_the_error_of_its_design(blocks: int, bits: int, error: float) -> None:
    """d = 1,000, unit updates with entries +-1/sqrt(d), sigma^2 = .04135: squared error of a mean of 500, within 4 %."""
    clients = 24 if bits == 7 else 6
    settings = DpRec(bits=bits, block_size=-(-1024 // blocks))
    codec = codec_of(settings, (1000,), sqrt(0.04135))
    assert codec.words_bits == blocks * bits
    draws = np.random.default_rng(bits)
    squares = []
    for client in range(clients):
        update = draws.choice([-1.0, 1.0], 1000) / sqrt(1000)
        decoded = codec.decode(codec.encode(update, Stream(1, 1, client), draws.bytes), Stream(1, 1, client))
        squares.append(float(np.square(decoded - update).sum()) / 500)
    assert np.mean(squares) == pytest.approx(error, rel=0.04)


def test_the_design_has_the_epsilon_and_the_bits_it_names() -> None:
    """sigma^2 = .04135, n = 500, delta = 1e-6: epsilon .996 for the sum's Gaussian limit (here by RDP), KL 17.4 bits."""
    assert 0.996 < epsilon_of(curves(Gaussian(1 / (500 * 0.04135))).absent, 1e-6) < 0.996 * 1.15
    assert 1 / 0.04135 / 2 / log(2) == pytest.approx(17.4, abs=0.1)


def test_the_servers_step() -> None:
    mean = np.array([1.0, -2.0])
    move, velocity = step(mean, None, DpRec(server_learning_rate=0.5))
    assert move.tolist() == [0.5, -1.0] and velocity is None
    settings = DpRec(server_learning_rate=0.5, server_momentum=0.9)
    move, velocity = step(mean, None, settings)
    move, velocity = step(mean, velocity, settings)
    assert velocity is not None and velocity.tolist() == [1.9, -3.8] and move.tolist() == [0.95, -1.9]


def test_what_a_run_says() -> None:
    settings = DpRec(view="central_limit", clip=0.5)
    said = statement(settings, terms_of(settings, 100, 10, 3), 0.2, 1.5)
    assert said == {
        "epsilon": 1.5,
        "delta": 1e-5,
        "view": "central_limit",
        "adjacency": "zero_out",
        "sigma": 0.2,
        "clip": 0.5,
        "certified": False,
        "sampling_rate": 0.1,
    }
    local = DpRec()
    assert statement(local, terms_of(local, 100, 10, 3), 0.2, 1.5)["certified"] is True
    seeded = DpRec(entropy="seeded")
    assert statement(seeded, terms_of(seeded, 100, 10, 3), 0.2, 1.5)["certified"] is False


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (DpRec(view="central_certified", downlink="replay"), "use dense"),
        (DpRec(block_rule="per_tensor", rotation="hadamard"), "use none or auto"),
        (DpRec(block_rule="kl_adaptive", block_size=4), "it must be 0"),
        (DpRec(view="central_limit", adjacency="replacement"), "choose zero_out"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: DpRec, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        validated(settings)


def test_settings() -> None:
    assert DpRec.prefix == "dp-rec" and validated(DpRec()) == DpRec()

"""Which replies are struck, what each kind makes of them, and what robust rules make of poison."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedwarm.aggregators import Robust, aggregator
from fedwarm.catalogue import parse
from fedwarm.core.arrays import Arrays
from fedwarm.core.norms import reference_norm, too_large, update_norm
from fedwarm.core.payload import Payload, PayloadError, check_arrays
from fedwarm.faults import EXTRA, Faults, Spoilt, fault_of, faults_of, strikes, struck_clients, turned
from fedwarm.faults.oversized import OVERSIZE
from fedwarm.faults.replay import stale
from fedwarm.faults.truncated import Truncated
from fedwarm.flower.wire import from_records, size_of, to_records
from fedwarm.settings.fields import SettingError
from fedwarm.settings.kinds import FAULTS

TICKETS = [f"{stage}.{attempt}.{client}" for stage in range(40) for attempt in range(2) for client in range(20)]


def sent() -> Arrays:
    return {"steps": np.array([5, 6]), "w": np.full((2, 3), 1.0, np.float32), "v": np.full(4, -2.0)}


def honest() -> Arrays:
    return {"steps": np.array([7, 8]), "w": np.full((2, 3), 1.5, np.float32), "v": np.full(4, -3.0)}


SPOILS = [kind for kind in FAULTS if issubclass(FAULTS.load(kind), Spoilt)]


def spoilt(faults: Faults, arrays: Arrays, reference: Arrays) -> Arrays | None:
    """The arrays that a struck client sends instead of its own; None where it sends its own."""
    told = fault_of(faults).spoil(Payload("weights", arrays), Payload("weights", reference), None)
    return None if told.arrays is arrays else told.arrays


def cut(data: bytes) -> bytes:
    return Truncated(Faults()).garble(data)


def made(kind: str, **more: Any) -> dict[str, Any]:
    out = spoilt(Faults(kind=kind, **more), honest(), sent())
    assert out is not None
    return out


def struck(faults: Faults, seed: int = 0) -> set[str]:
    return {ticket for ticket in TICKETS if strikes(faults, seed, ticket)}


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.9])
def test_the_share_that_is_struck_is_the_rate(rate: float) -> None:
    for seed in range(3):
        share, sigma = len(struck(Faults("crash", rate), seed)) / len(TICKETS), np.sqrt(rate * (1 - rate) / len(TICKETS))
        assert abs(share - rate) < 4 * sigma


def test_none_and_all_are_struck_at_the_ends() -> None:
    assert not struck(Faults("crash", 0.0)) and not struck(Faults("none", 1.0)) and not struck(Faults())
    assert struck(Faults("crash", 1.0)) == set(TICKETS)


def test_strikes_depend_on_the_seed_and_the_ticket_alone() -> None:
    first = struck(Faults("crash", 0.3))
    assert all(struck(Faults(kind, 0.3)) == first for kind in FAULTS if kind != FAULTS.first)
    assert struck(Faults("crash", 0.3), seed=1) != first
    assert struck(Faults("crash", 0.1)) < first < struck(Faults("crash", 0.5))


def test_only_the_named_clients_are_struck() -> None:
    chosen = struck(Faults("nan", 0.3, clients=" 1, 13"))
    assert chosen == {t for t in struck(Faults("nan", 0.3)) if t.split(".")[-1] in ("1", "13")} and chosen
    assert struck(Faults("nan", 1.0, clients="3")) == {t for t in TICKETS if t.endswith(".3")}


@pytest.mark.parametrize("clients", ["a", "1,,2", "1;2", "-1", "1.5", ","])
def test_clients_that_are_no_partitions_are_refused(clients: str) -> None:
    with pytest.raises(SettingError, match="faults.clients = .* e.g. '1,3'"):
        struck_clients(Faults(clients=clients))


def test_settings_are_read_from_the_flat_run_config() -> None:
    flat: dict[str, Any] = {
        "seed": 3,
        "faults.kind": "delay",
        "faults.rate": 1,
        "faults.delay-seconds": 0.5,
        "faults.clients": "2",
    }
    assert faults_of(flat) == Faults("delay", 1.0, "2", 0.5) == parse(flat).of(Faults)
    assert faults_of({}) == Faults()
    with pytest.raises(SettingError, match="faults.rate = 1.5"):
        faults_of({"faults.rate": 1.5})
    with pytest.raises(SettingError, match="faults.kind = 'fire' is not a known fault"):
        faults_of({"faults.kind": "fire"})


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        ("nan", "w holds NaN or infinity"),
        ("infinity", "w holds NaN or infinity"),
        ("wrong_shape", r"steps is int64\[1, 2\], expected int64\[2\]"),
        ("missing_key", r"arrays differ in their names: \['v'\]"),
        ("extra_key", rf"arrays differ in their names: \['{EXTRA}'\]"),
        ("wrong_dtype", r"w is float64\[2, 3\], expected float32\[2, 3\]"),
        ("oversized", rf"arrays differ in their names: \['{EXTRA}'\]"),
    ],
)
def test_what_is_wrong_with_its_arrays_is_refused(kind: str, complaint: str) -> None:
    with pytest.raises(PayloadError, match=complaint):
        check_arrays(made(kind), sent())


@pytest.mark.parametrize("kind", [k for k in FAULTS if k not in ("nan", "infinity", "huge_update", "poison")])
def test_other_arrays_stay_as_they_are(kind: str) -> None:
    out = spoilt(Faults(kind=kind, delay_seconds=0.0), honest(), sent())
    if kind not in SPOILS:
        assert out is None
        return
    assert out is not None
    changed = {n for n in out.keys() | honest().keys() if n not in out or n not in honest() or out[n].shape != honest()[n].shape
               or out[n].dtype != honest()[n].dtype or not np.array_equal(out[n], honest()[n])}  # fmt: skip
    assert len(changed) == 1


def test_one_number_is_spoilt() -> None:
    for kind, count in (("nan", np.isnan), ("infinity", np.isinf)):
        out = made(kind)
        assert count(out["w"].astype(float)).sum() == 1 and count(out["v"].astype(float)).sum() == 0


@pytest.mark.parametrize("kind", SPOILS)
def test_honest_arrays_are_not_written_to(kind: str) -> None:
    reply, reference = honest(), sent()
    for array in (*reply.values(), *reference.values()):
        array.flags.writeable = False
    before = copy.deepcopy(reply)
    spoilt(Faults(kind=kind), reply, reference)
    assert all(np.array_equal(reply[name], before[name]) for name in before)


def test_an_oversized_reply_is_many_times_larger() -> None:
    small = size_of(to_records(Payload("weights", honest())))
    large = size_of(to_records(Payload("weights", made("oversized"))))
    assert large.wire_bytes > 2**20 and large.payload_bytes > 100 * small.payload_bytes
    big: Arrays = {"w": np.ones(500_000, np.float32)}
    more = spoilt(Faults(kind="oversized"), big, {})
    assert more is not None and sum(a.nbytes for a in more.values()) == (1 + OVERSIZE) * 2_000_000


def test_a_huge_update_is_the_update_a_million_times_and_refused() -> None:
    out = made("huge_update")
    np.testing.assert_allclose(out["w"], np.full((2, 3), 1 + 1e6 * 0.5))
    np.testing.assert_allclose(out["v"], np.full(4, -2 - 1e6))
    assert np.array_equal(out["steps"], honest()["steps"])
    assert out["w"].dtype == np.float32 and out["v"].dtype == np.float64
    check_arrays(out, sent())
    assert update_norm(out, sent()) == pytest.approx(1e6 * update_norm(honest(), sent()))
    assert too_large(update_norm(out, sent()), reference_norm(sent()), [], 100.0)


def test_a_huge_update_that_float32_cannot_hold_is_infinite() -> None:
    out = spoilt(Faults(kind="huge_update", scale=1e30), {"w": np.full(2, 1e12, np.float32)}, {"w": np.zeros(2, np.float32)})
    assert out is not None
    with pytest.raises(PayloadError, match="w holds NaN or infinity"):
        check_arrays(out, {"w": np.zeros(2, np.float32)})


def test_poison_is_the_update_turned_round_and_passes_every_check() -> None:
    out = made("poison")
    np.testing.assert_allclose(out["w"], np.full((2, 3), 1 - 3 * 0.5))
    np.testing.assert_allclose(out["v"], np.full(4, -2 + 3.0))
    check_arrays(out, sent())
    length = update_norm(out, sent())
    assert length == pytest.approx(3 * update_norm(honest(), sent()))
    assert not too_large(length, reference_norm(sent()), [update_norm(honest(), sent())], 100.0)


@pytest.mark.parametrize("kind", FAULTS)
def test_code_words_are_turned_round_by_clients_that_poison_strikes(kind: str) -> None:
    faults = Faults(kind=kind, rate=0.5, clients="1")
    tickets = [f"{stage}.0.{client}" for stage in range(20) for client in range(3)]
    struck = [ticket for ticket in tickets if kind == "poison" and strikes(faults, 0, ticket)]
    assert [ticket for ticket in tickets if turned(faults, 0, ticket)] == struck


def test_without_a_reference_the_arrays_are_the_update() -> None:
    out = spoilt(Faults(kind="poison", poison_scale=2.0), {"w": np.ones(2)}, {})
    assert out is not None and out["w"].tolist() == [-2, -2]


@pytest.mark.parametrize("kind", FAULTS)
def test_where_there_is_nothing_to_spoil_nothing_is(kind: str) -> None:
    faults = Faults(kind=kind, delay_seconds=0.0)
    bare, counters = spoilt(faults, {}, {}), spoilt(faults, {"n": np.ones(2, int)}, {})
    assert (bare is not None) == (kind in ("extra_key", "oversized"))
    assert (counters is not None) == (kind in ("extra_key", "oversized", "wrong_shape", "missing_key"))


@given(st.binary(max_size=300))
def test_a_cut_array_is_shorter(data: bytes) -> None:
    assert data.startswith(cut(data)) and (len(cut(data)) < len(data) or not data)


@pytest.mark.parametrize("array", [np.ones((30, 30), np.float32), np.ones(1, np.uint8), np.ones((0, 3)), np.array(1.0)])
def test_an_array_cut_short_cannot_be_read(array: Any) -> None:
    records = to_records(Payload("weights", {"w": array}))
    record = records.array_records["arrays"]["w"]
    record.data = cut(record.data)
    with pytest.raises(PayloadError, match="'w'"):
        from_records(records)


@pytest.mark.parametrize(
    ("ticket", "old"), [("7.1.3", "6.1.3"), ("0.0.2", "-1.0.2"), ("-1.0.2", "-2.0.2"), ("", "-1."), ("x.y", "-1.x.y")]
)
def test_a_stale_ticket_is_of_another_stage(ticket: str, old: str) -> None:
    assert stale(ticket) == old


def distance(robust: Robust, faults: Faults, clients: int = 7) -> float:
    """Distance to the honest clients' optimum of a quadratic objective after 40 rounds of them and the struck ones."""
    draws = np.random.default_rng(0)
    optima = draws.normal(1.0, 0.1, size=(clients, 20))
    bad = struck_clients(faults) or frozenset()
    w: Arrays = {"w": np.zeros(20)}
    for number in range(40):
        rule = aggregator(robust, w)
        for k, optimum in enumerate(optima):
            start = w["w"].astype(float)
            local: Arrays = {"w": start - 0.3 * (start - optimum)}
            told = spoilt(faults, local, w) if strikes(faults, 0, f"{number}.0.{k}") else local
            assert told is not None
            rule.add(told, 1.0)
        w = rule.result()
    best = optima[[k for k in range(clients) if k not in bad]].mean(axis=0)
    return float(np.linalg.norm(w["w"].astype(float) - best))


POISON = Faults("poison", 1.0, clients="2,5")


@pytest.mark.parametrize("robust", [Robust(rule="median"), Robust(rule="trimmed_mean", trim=0.3),
                                    Robust(rule="krum", byzantine=2), Robust(rule="krum", byzantine=2, keep=4)])  # fmt: skip
def test_poison_does_not_move_a_robust_rule_far(robust: Robust) -> None:
    assert distance(robust, POISON) < 1.0


def test_poison_moves_the_mean_as_far_as_it_likes() -> None:
    assert distance(Robust(), Faults()) < 1e-3
    assert distance(Robust(), POISON) > 5.0
    thrown = Faults("poison", 1.0, clients="2,5", poison_scale=50.0)
    assert distance(Robust(clip_norm=0.5), thrown) < 0.1 * distance(Robust(), thrown)

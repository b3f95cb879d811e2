"""Robust rules against Flower's own, against slow loops and in their limits; clipping; and which update is too large."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg, FedMedian, FedTrimmedAvg, Krum, MultiKrum
from hypothesis import given
from hypothesis import strategies as st

from fedwarm.aggregators import Robust, aggregator, needs
from fedwarm.aggregators.krum import krum_scores
from fedwarm.aggregators.trimmed_mean import cuts
from fedwarm.core.arrays import Arrays, WeightedMean
from fedwarm.core.norms import BLOCK, update_norm
from fedwarm.engines.local.desk import identify

RULES = ("mean", "median", "trimmed_mean", "krum")
VALUES = st.integers(-50, 50).map(lambda i: i / 8)
CLIENTS = st.lists(st.lists(VALUES, min_size=4, max_size=4), min_size=5, max_size=9)


def arrays(seed: int, scale: float = 1.0) -> Arrays:
    draws = np.random.default_rng(seed)
    return {
        "a.weight": (scale * draws.normal(size=(3, 4))).astype(np.float32),
        "a.bias": scale * draws.normal(size=3),
        "scalar": np.array(scale * draws.normal(), np.float32),
        "steps": draws.integers(0, 100, size=2),
    }


def cohort(count: int) -> list[Arrays]:
    return [arrays(seed) for seed in range(count)]


def combined(robust: Robust, replies: Sequence[Arrays], reference: Arrays | None = None) -> Arrays:
    rule = aggregator(robust, replies[0] if reference is None else reference)
    for reply in replies:
        rule.add(reply, 1.0)
    return rule.result()


def close(made: Any, expected: Any, rtol: float = 2e-6, atol: float = 1e-7, label: str = "") -> None:
    np.testing.assert_allclose(made, expected, rtol=rtol, atol=atol, err_msg=label)


def same(made: Arrays, expected: Arrays) -> bool:
    return made.keys() == expected.keys() and all(np.array_equal(made[name], expected[name]) for name in expected)


def rows(clients: Sequence[Sequence[float]]) -> list[Arrays]:
    return [{"w": np.array(values[:3]), "v": np.array(values[3:], np.float32)} for values in clients]


@pytest.fixture(autouse=True)
def _identified() -> None:
    identify(run_id=1, node_id=1)


def flowers(strategy: FedAvg, replies: Sequence[Arrays]) -> Arrays:
    """What one of Flower's strategies makes of the float arrays of the same replies."""
    messages = []
    for reply in replies:
        record = ArrayRecord({name: Array(np.asarray(a)) for name, a in reply.items() if a.dtype.kind == "f"})
        content = RecordDict({"arrays": record, "metrics": MetricRecord({"num-examples": 1})})
        asked = Message(RecordDict({"config": ConfigRecord()}), dst_node_id=1, message_type="train")
        messages.append(Message(content, reply_to=asked))
    made, _ = strategy.aggregate_train(1, messages)
    assert made is not None
    return {name: array.numpy() for name, array in made.items()}


@pytest.mark.parametrize(
    ("robust", "strategy", "count"),
    [
        (Robust(rule="mean"), FedAvg(), 4),
        (Robust(rule="median"), FedMedian(), 5),
        (Robust(rule="median"), FedMedian(), 6),
        (Robust(rule="trimmed_mean", trim=0.2), FedTrimmedAvg(beta=0.2), 5),
        (Robust(rule="trimmed_mean", trim=0.2), FedTrimmedAvg(beta=0.2), 11),
        (Robust(rule="trimmed_mean", trim=0.4), FedTrimmedAvg(beta=0.4), 9),
        (Robust(rule="krum", byzantine=1), Krum(num_malicious_nodes=1), 5),
        (Robust(rule="krum", byzantine=2), Krum(num_malicious_nodes=2), 8),
        (Robust(rule="krum", byzantine=0), Krum(num_malicious_nodes=0), 3),
        (Robust(rule="krum", byzantine=1, keep=3), MultiKrum(num_malicious_nodes=1, num_nodes_to_select=3), 7),
    ],
)
def test_rules_are_flower_s_own(robust: Robust, strategy: FedAvg, count: int) -> None:
    replies = cohort(count)
    made, theirs = combined(robust, replies), flowers(strategy, replies)
    assert theirs.keys() == {"a.weight", "a.bias", "scalar"}
    for name, array in theirs.items():
        close(made[name], array)


@given(CLIENTS)
def test_the_median_is_the_slow_loop_s(clients: list[list[float]]) -> None:
    made = combined(Robust(rule="median"), rows(clients))
    for i, value in enumerate([*made["w"], *made["v"]]):
        ordered, n = sorted(values[i] for values in clients), len(clients)
        assert value == (ordered[(n - 1) // 2] + ordered[n // 2]) / 2


@given(CLIENTS, st.sampled_from([0.0, 0.1, 0.2, 0.34, 0.49]))
def test_the_trimmed_mean_is_the_slow_loop_s(clients: list[list[float]], trim: float) -> None:
    made = combined(Robust(rule="trimmed_mean", trim=trim), rows(clients))
    cut = cuts(len(clients), trim)
    for i, value in enumerate([*made["w"], *made["v"]]):
        kept = sorted(values[i] for values in clients)[cut : len(clients) - cut]
        assert value == pytest.approx(sum(kept) / len(kept), rel=1e-6, abs=1e-9)


def slow_krum(clients: Sequence[Sequence[float]], byzantine: int) -> list[float]:
    scores = []
    for i, one in enumerate(clients):
        others = [other for j, other in enumerate(clients) if j != i]
        squares = sorted(sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) for other in others)
        scores.append(sum(squares[: len(clients) - byzantine - 2]))
    return scores


@given(CLIENTS, st.integers(0, 1), st.integers(1, 4))
def test_krum_is_the_slow_loop_s(clients: list[list[float]], byzantine: int, keep: int) -> None:
    scores = slow_krum(clients, byzantine)
    np.testing.assert_allclose(krum_scores(rows(clients), byzantine), scores, rtol=1e-12)
    best = sorted(range(len(clients)), key=lambda i: (scores[i], i))[:keep]
    made = combined(Robust(rule="krum", byzantine=byzantine, keep=keep), rows(clients))
    for i, value in enumerate([*made["w"], *made["v"]]):
        assert value == pytest.approx(sum(clients[j][i] for j in best) / keep, rel=1e-6, abs=1e-9)


def test_one_of_krum_s_is_a_client_s_arrays_to_the_bit() -> None:
    assert same(combined(Robust(rule="krum"), cohort(6)), cohort(6)[int(np.argmin(krum_scores(cohort(6), 1)))])


def test_distances_survive_a_liar_beside_whom_the_honest_ones_are_small() -> None:
    """By ||x||^2 + ||y||^2 - 2 x.y all that is known of clients near 1e9 would be rounding."""
    clients = [[1e9, 1e9 + d, 0.0, 0.0] for d in (0.0, 1.0, 1.5, 4.0, 9.0)]
    np.testing.assert_array_equal(krum_scores(rows(clients), 1), slow_krum(clients, 1))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("clip", [0.0, 2.0])
def test_the_order_of_clients_does_not_matter(rule: str, clip: float) -> None:
    reference, replies = arrays(99), cohort(5)
    robust = Robust(rule=rule, clip_norm=clip)
    first = combined(robust, replies, reference)
    for order in itertools.islice(itertools.permutations(range(5)), 1, 120, 7):
        other = combined(robust, [replies[i] for i in order], reference)
        for name in first:
            if rule == "mean":
                close(other[name], first[name])
            else:
                assert np.array_equal(other[name], first[name])


@pytest.mark.parametrize("robust", [Robust(rule="trimmed_mean", trim=0.0), Robust(rule="krum", byzantine=0, keep=7),
                                    Robust(clip_norm=1e9)])  # fmt: skip
def test_limits_in_which_rules_are_the_mean(robust: Robust) -> None:
    mean = combined(Robust(), cohort(7))
    for name, array in combined(robust, cohort(7)).items():
        close(array, mean[name])


def test_the_mean_of_all_but_the_middle_cut_off_is_the_median() -> None:
    assert same(combined(Robust(rule="trimmed_mean", trim=0.49), cohort(7)), combined(Robust(rule="median"), cohort(7)))


@pytest.mark.parametrize("rule", RULES)
def test_equal_replies_come_back_as_they_are(rule: str) -> None:
    made = combined(Robust(rule=rule), [arrays(3)] * 5)
    for name, array in arrays(3).items():
        assert made[name].dtype == array.dtype and made[name].shape == array.shape
        close(made[name], array, rtol=1e-15, atol=0.0)


@pytest.mark.parametrize("rule", RULES)
def test_types_and_shapes_are_kept_and_inputs_not_written_to(rule: str) -> None:
    f16, i32 = np.float16, np.int32
    replies: list[Arrays] = [{"f": np.array([i, 2 * i], f16), "n": np.array(i, i32), "e": np.ones((0, 2))} for i in range(6)]
    kept = copy.deepcopy(replies)
    made = combined(Robust(rule=rule, clip_norm=0.5), replies)
    assert {name: (a.dtype, a.shape) for name, a in made.items()} == {name: (a.dtype, a.shape) for name, a in replies[0].items()}
    assert all(same(reply, before) for reply, before in zip(replies, kept, strict=True))


def test_integers_are_rounded() -> None:
    replies = [{"n": np.array([i, 10 * i])} for i in (0, 1, 2, 4)]
    assert combined(Robust(rule="median"), replies)["n"].tolist() == [2, 15]
    assert combined(Robust(rule="trimmed_mean", trim=0.25), replies)["n"].tolist() == [2, 15]
    assert combined(Robust(rule="krum", byzantine=0, keep=4), replies)["n"].tolist() == [2, 18]


def test_arrays_of_many_blocks_are_combined_whole() -> None:
    values = np.random.default_rng(0).normal(size=(5, BLOCK + 7))
    replies: list[Arrays] = [{"w": row} for row in values]
    assert np.array_equal(combined(Robust(rule="median"), replies)["w"], np.median(values, axis=0))
    close(combined(Robust(rule="trimmed_mean"), replies)["w"], np.sort(values, axis=0)[1:-1].mean(axis=0), rtol=1e-12)
    squares = np.sort(np.square(values[:, None] - values[None]).sum(axis=2), axis=1)
    close(krum_scores(replies, 1), squares[:, 1:3].sum(axis=1), rtol=1e-9)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("clip", [0.0, 1.0])
@pytest.mark.parametrize(
    ("change", "names"),
    [({"v": None}, ["v"]), ({"x": np.ones(1)}, ["x"]), ({"w": np.ones(3)}, ["w", "(3,)", "(2,)"])],
)
def test_what_does_not_fit_is_refused_by_name(rule: str, clip: float, change: Any, names: list[str]) -> None:
    good: Arrays = {"w": np.ones(2), "v": np.ones(1)}
    bad = {name: array for name, array in {**good, **change}.items() if array is not None}
    made = aggregator(Robust(rule=rule, clip_norm=clip), good)
    made.add(good, 1.0)
    with pytest.raises(ValueError, match="arrays differ|has shape") as caught:
        made.add(bad, 1.0)
    assert all(name in str(caught.value) for name in names)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_weights_that_are_no_weights_are_refused(rule: str, weight: float) -> None:
    with pytest.raises(ValueError, match="is not positive"):
        aggregator(Robust(rule=rule), arrays(0)).add(arrays(0), weight)


@pytest.mark.parametrize("rule", RULES)
def test_nothing_gives_nothing(rule: str) -> None:
    with pytest.raises(ValueError, match="no (replies to aggregate|arrays to average)"):
        aggregator(Robust(rule=rule), {}).result()


@pytest.mark.parametrize(("byzantine", "keep", "fewest"), [(0, 1, 3), (1, 1, 5), (2, 1, 7), (1, 6, 7), (0, 9, 9)])
def test_krum_says_how_many_replies_it_needs(byzantine: int, keep: int, fewest: int) -> None:
    robust = Robust(rule="krum", byzantine=byzantine, keep=keep)
    assert needs(robust) == fewest
    with pytest.raises(ValueError, match=f"needs at least {fewest} replies, got {fewest - 1}") as caught:
        combined(robust, cohort(fewest - 1))
    assert len(str(caught.value).splitlines()) == 1 and f"robust.byzantine = {byzantine}" in str(caught.value)
    assert combined(robust, cohort(fewest))


def test_other_rules_need_one_reply() -> None:
    assert isinstance(aggregator(Robust(), {}), WeightedMean)
    for rule in RULES[:3]:
        assert needs(Robust(rule=rule)) == 1
        made = combined(Robust(rule=rule), [arrays(0)])
        assert same(made, arrays(0))


@pytest.mark.parametrize(
    ("count", "trim", "cut"),
    [(1, 0.4, 0), (2, 0.49, 0), (3, 0.01, 1), (4, 0.2, 1), (5, 0.2, 1), (10, 0.3, 3), (100, 0.29, 29), (9, 0.49, 4), (9, 0.0, 0)],
)
def test_how_many_a_trimmed_mean_cuts(count: int, trim: float, cut: int) -> None:
    assert cuts(count, trim) == cut


def test_claimed_weights_count_in_the_mean_alone() -> None:
    for rule in RULES:
        plain, claimed = (aggregator(Robust(rule=rule), arrays(0)) for _ in range(2))
        for i, reply in enumerate(cohort(5)):
            plain.add(reply, 1.0)
            claimed.add(reply, 1e6 if i == 4 else 1.0)
        assert same(plain.result(), claimed.result()) == (rule != "mean")


@given(st.integers(0, 99), st.floats(1e-3, 100))
def test_a_clipped_update_keeps_its_direction_and_gets_the_norm(seed: int, clip: float) -> None:
    reference, reply = arrays(1000), arrays(seed)
    norm = np.sqrt(sum(float(((reply[n].astype(float) - reference[n]) ** 2).sum()) for n in reply if n != "steps"))
    assert update_norm(reply, reference) == pytest.approx(norm, rel=1e-12)
    made = combined(Robust(clip_norm=clip), [reply], reference)
    factor = min(1.0, clip / norm)
    for name in ("a.weight", "a.bias", "scalar"):
        expected = reference[name] + factor * (reply[name].astype(float) - reference[name])
        close(made[name], expected, rtol=1e-5, atol=1e-6)
    assert np.array_equal(made["steps"], reply["steps"])
    assert update_norm(made, reference) <= clip * (1 + 1e-4) + 1e-6


def test_a_short_update_is_not_touched() -> None:
    reference = arrays(0)
    reply: Arrays = {**reference, "a.bias": reference["a.bias"].astype(float) + 1e-3}
    assert same(combined(Robust(clip_norm=1.0), [reply], reference), reply)


def test_norms_of_what_float64_cannot_square_are_infinite() -> None:
    big: Arrays = {"w": np.full(3, 1e300)}
    assert update_norm(big, {"w": np.zeros(3)}) == np.inf
    assert combined(Robust(clip_norm=1.0), [big], {"w": np.ones(3)})["w"].tolist() == [1, 1, 1]

"""Random coding itself: weights by a slow loop, the law of the choice, and a working set that does not grow."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy import stats

from fedwarm.coding import rec
from fedwarm.coding.blocks import even, fixed_size
from fedwarm.coding.packing import CodeError
from fedwarm.coding.shrinkage import parallel_variance, shrinkage
from fedwarm.coding.streams import Stream, normals, table, wide_table

STREAM = Stream(3, 1, 4)


@pytest.mark.parametrize(("size", "bits"), [(1, 1), (3, 5), (17, 4), (1000, 3), (70_001, 2)])
def test_weights_are_the_slow_loops(size: int, bits: int) -> None:
    v = np.random.default_rng(size).normal(size=size)
    key = STREAM.key(2)
    slow = [float(np.dot(normals(key, k, size).astype(np.float64), v)) for k in range(2**bits)]
    np.testing.assert_allclose(rec.log_weights(key, v, bits), slow, rtol=0, atol=1e-9)


def test_weights_do_not_depend_on_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    v = np.random.default_rng(0).normal(size=1001)
    whole = rec.log_weights(STREAM.key(0), v, 5)
    for chunk in (64, 1004, 3000):
        monkeypatch.setattr(rec, "CHUNK", chunk)
        np.testing.assert_allclose(rec.log_weights(STREAM.key(0), v, 5), whole, rtol=0, atol=1e-10)


@pytest.mark.parametrize("rule", [fixed_size(100, 7), fixed_size(100, 100), even(100, 13), fixed_size(100, 1)])
@pytest.mark.parametrize("bits", [1, 6])
def test_decoded_is_the_chosen_candidate(rule: object, bits: int) -> None:
    starts = rule.starts  # type: ignore[attr-defined]
    v = np.random.default_rng(0).normal(size=100)
    chosen = rec.encode(v, starts, bits, STREAM)
    assert chosen.dtype == np.uint16 and chosen.max() < 2**bits
    decoded = rec.decode(chosen, starts, STREAM)
    assert decoded.dtype == np.float32
    for j, index in enumerate(chosen.tolist()):
        part = slice(starts[j], starts[j + 1])
        assert np.array_equal(decoded[part], normals(STREAM.key(j), index, starts[j + 1] - starts[j]))


def test_the_choice_is_private_and_the_candidates_are_shared() -> None:
    v, starts = np.full(400, 0.1), fixed_size(400, 4).starts
    first, second = (rec.encode(v, starts, 7, STREAM) for _ in range(2))
    assert not np.array_equal(first, second), "the operating system's randomness differs"
    same = [rec.encode(v, starts, 7, STREAM, np.random.default_rng(5).bytes) for _ in range(2)]
    assert np.array_equal(*same)
    assert not np.array_equal(same[0], rec.encode(v, starts, 7, Stream(3, 1, 5), np.random.default_rng(5).bytes))


def test_choices_follow_the_softmax() -> None:
    """Chi-square of 50,000 draws against softmax(l), p > .001."""
    source = np.random.default_rng(0).bytes
    weights = np.array([0.0, 1.0, -1.0, 2.0, 0.3, -3.0, 0.0, 1.5])
    wanted = np.exp(weights) / np.exp(weights).sum()
    counts = np.bincount([rec.choose(weights, source) for _ in range(50_000)], minlength=8)
    assert stats.chisquare(counts, 50_000 * wanted).pvalue > 1e-3
    flat = rec.choose(np.array([-1e6, 1e6, 0.0]), source)
    assert flat == 1, "weights far apart do not overflow"


def test_nothing_to_say_is_said_uniformly() -> None:
    """v = 0: chi-square of 100,000 indices, p > .001."""
    source = np.random.default_rng(1).bytes
    weights = rec.log_weights(STREAM.key(0), np.zeros(6), 7)
    assert not weights.any()
    counts = np.bincount([rec.choose(weights, source) for _ in range(100_000)], minlength=128)
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize(("bits", "c"), [(3, 1.0), (5, 0.5), (4, 2.0)])
def test_moments_of_the_decoded(bits: int, c: float) -> None:
    """Mean s c along v within 4 standard errors, nothing across; variances by the closed forms, within 4.5."""
    count, m = 6000, 4
    direction = np.array([0.5, -0.5, 0.1, 0.7])
    v = c * direction / np.linalg.norm(direction)
    starts = fixed_size(count * m, m).starts
    source = np.random.default_rng(2).bytes
    decoded = rec.decode(rec.encode(np.tile(v, count), starts, bits, STREAM, source), starts, STREAM).reshape(count, m)
    along = decoded.astype(np.float64) @ (v / c)
    across = decoded - np.outer(along, v / c)
    assert abs(along.mean() - shrinkage(bits, c) * c) < 4 * along.std() / np.sqrt(count)
    assert np.abs(across.mean(0)).max() < 4 / np.sqrt(count)
    variance = parallel_variance(bits, c)
    fourth = ((along - along.mean()) ** 4).mean()
    assert abs(along.var() - variance) < 4.5 * np.sqrt((fourth - variance**2) / count)
    residual = (across**2).sum() / (count * (m - 1))
    assert abs(residual - 1) < 4.5 * np.sqrt(2 / (count * (m - 1)))


def test_many_candidates_draw_from_the_posterior() -> None:
    """b = 10, c = .25: the chosen one along v is N(c, 1) to the eye of Kolmogorov and Smirnov, 10,000 draws, p > .001."""
    c, count, source = 0.25, 10_000, np.random.default_rng(3).bytes
    drawn = np.stack([normals(STREAM.key(0), k, count) for k in range(1024)], axis=1).astype(np.float64)
    chosen = np.array([row[rec.choose(c * row, source)] for row in drawn])
    assert stats.kstest(chosen, stats.norm(c, 1).cdf).pvalue > 1e-3
    assert stats.kstest(chosen, stats.norm(0, 1).cdf).pvalue < 1e-9, "the test can fail"


@pytest.mark.parametrize(("size", "bits"), [(300_000, 4), (64, 16)])
def test_the_working_set_is_bounded(size: int, bits: int) -> None:
    """All candidates at once would take 38 MB and 34 MB."""
    v, starts = np.full(size, 1e-3), fixed_size(size, size).starts
    table(), wide_table()
    rec.encode(v[:8], fixed_size(8, 8).starts, 1, STREAM)
    tracemalloc.start()
    rec.encode(v, starts, bits, STREAM)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < rec.WORKING_BYTES < size * 8 * 2**bits / 4


def test_what_is_not_finite_is_never_encoded() -> None:
    for bad in (np.nan, np.inf):
        v = np.zeros(10)
        v[3] = bad
        with pytest.raises(CodeError, match="NaN or infinity"):
            rec.encode(v, fixed_size(10, 5).starts, 4, STREAM)

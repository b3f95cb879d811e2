"""The Poisson functional representation: its law, where its search stops, and how long its indices are."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from fedwarm.coding import functional as f
from fedwarm.coding.gamma import code_bits
from fedwarm.coding.packing import CodeError
from fedwarm.coding.streams import Stream, normals

SIZE, BLOCKS = 8, 3000


def block(norm: float) -> NDArray[np.float64]:
    v = np.random.default_rng(5).normal(size=SIZE)
    return v * norm / np.sqrt(v @ v)


@cache
def chosen(norm: float, tolerance: float, blocks: int = BLOCKS) -> NDArray[np.int64]:
    """The index of each block; arrival times are the same ones at every tolerance."""
    stream, most = Stream(3, 1, 4, b"secret of stream"), f.most_candidates(norm, tolerance)
    words, v = stream.words(), block(norm)
    return np.array([
        f.choose(stream.key(j), v, words, np.random.default_rng(j).bytes, tolerance, most) for j in range(blocks)
    ])  # fmt: skip


def test_what_is_chosen_is_the_vector_plus_normal_noise() -> None:
    """Along the vector N(c, 1), across it N(0, 1), with nothing between them; random coding of as many bits is no such thing."""
    norm = 0.7
    stream, u = Stream(3, 1, 4, b"secret of stream"), block(1.0)
    z = np.stack([
        normals(stream.key(j), int(k) - 1, SIZE, stream.words()) for j, k in enumerate(chosen(norm, 1e-9))
    ])  # fmt: skip
    along = z @ u
    across = z - along[:, None] * u
    assert stats.kstest(along, "norm", args=(norm, 1.0)).pvalue > 1e-3
    assert along.mean() == pytest.approx(norm, abs=4 / np.sqrt(BLOCKS))
    assert stats.kstest(along, "norm", args=(0.8 * norm, 1.0)).pvalue < 1e-3, "and a fifth less is seen"
    variance = float((across**2).sum() / (BLOCKS * (SIZE - 1)))
    assert variance == pytest.approx(1.0, abs=4 * np.sqrt(2 / (BLOCKS * (SIZE - 1))))
    assert abs(np.corrcoef(along, (across**2).sum(axis=1))[0, 1]) < 4 / np.sqrt(BLOCKS)


def test_a_zero_block_takes_the_first_candidate() -> None:
    stream = Stream(1, 1, 1, b"secret of stream")
    assert {f.choose(stream.key(j), np.zeros(4), stream.words(), np.random.default_rng(j).bytes, 1e-6, 16) for j in range(9)} == {
        1
    }


@pytest.mark.parametrize("tolerance", [0.1, 0.02])
def test_a_search_that_stops_misses_no_more_than_it_says(tolerance: float) -> None:
    """Searches that go on with the same arrivals end elsewhere in at most that share of blocks, by the rule and by the end."""
    missed = float(np.mean(chosen(0.7, tolerance) != chosen(0.7, 1e-9)))
    assert tolerance / 50 < missed < 2 * tolerance


def test_indices_are_as_long_as_the_law_says() -> None:
    """P(index > N) by quadrature against the draws, at four standard errors."""
    for number in (1, 2, 4, 16, 64):
        wanted = f.beyond(0.7, number)
        seen = float(np.mean(chosen(0.7, 1e-9) > number))
        assert seen == pytest.approx(wanted, abs=4 * np.sqrt(wanted / BLOCKS) + 1 / BLOCKS)
    law = f.block_lengths(0.7, f.most_candidates(0.7, 1e-9))
    assert law.sum() == pytest.approx(1.0) and (law >= 0).all()


@pytest.mark.parametrize(
    ("norm", "bits", "long", "longer"), [(0.5, 1.62, (60, 117), (649, 810)), (0.6, 1.77, (46, 102), (494, 650))]
)
def test_lengths_at_two_energies(norm: float, bits: float, long: tuple[int, int], longer: tuple[int, int]) -> None:
    """Bits a block and of messages at X = 9.3 and 100: mean, and padded so that one in 10^10 is longer."""
    most = f.most_candidates(norm, 1e-12)
    law = f.block_lengths(norm, most)
    each = law @ [code_bits(2**i) for i in range(law.size)]
    assert each == pytest.approx(bits, abs=0.01)
    for energy, (mean, padded) in ((9.3, long), (100.0, longer)):
        blocks = round(energy / norm**2)
        assert blocks * each == pytest.approx(mean, abs=0.6)
        assert f.message_bits(norm, blocks, 1e-10, most) == padded


def test_longer_norms_take_longer_in_law() -> None:
    """So messages at the blocks' caps are the longest: at any number, and in the length of the message."""
    tails = [[f.beyond(c, n) for n in (1, 3, 10, 100, 1000)] for c in (0.1, 0.3, 0.5, 0.8, 1.2)]
    assert all(a < b for low, high in pairwise(tails) for a, b in zip(low, high, strict=True))
    most = f.most_candidates(1.2, 1e-9)
    lengths = [f.message_bits(c, 30, 1e-9, most) for c in (0.3, 0.5, 0.8, 1.2)]
    assert lengths == sorted(lengths) and lengths[0] < lengths[-1]


def test_the_last_candidate_is_far_enough() -> None:
    for norm in (0.3, 0.6):
        most = f.most_candidates(norm, 1e-12)
        assert f.beyond(norm, most) <= 1e-12 < f.beyond(norm, most - f.AT_ONCE)


def test_messages_are_as_long_as_convolution_says() -> None:
    """Three blocks by hand."""
    law = f.block_lengths(0.6, 16)
    total = np.convolve(np.convolve(law, law), law)
    for tolerance in (0.5, 1e-2, 1e-4):
        bits = f.message_bits(0.6, 3, tolerance, 16)
        pairs = (bits - 3) // 2
        assert total[pairs + 1 :].sum() <= tolerance < total[pairs:].sum()


def test_blocks_that_take_too_many_candidates_are_refused() -> None:
    with pytest.raises(CodeError, match="takes more than 1048576 candidates; take smaller blocks"):
        f.most_candidates(3.0, 1e-12)


def test_later_winners_by_quadrature() -> None:
    norm, least, arrival = 0.8, 0.4, 3.0
    g = np.linspace(-12, 12, 400_001)
    weights = np.exp(norm * g - norm**2 / 2)
    wanted = np.trapezoid(np.maximum(least * weights - arrival, 0) * stats.norm.pdf(g), g)
    assert f.later_winners(norm, least, arrival) == pytest.approx(float(wanted), rel=1e-6)
    assert 0 <= f.later_winners(norm, least, 1e6) < 1e-40

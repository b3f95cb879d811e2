"""Partitions and chunks: disjoint, whole, of their shares, the same everywhere; what travels; Adam."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedwarm.methods.partitioned_hpo import PartitionedHpo
from fedwarm.partitioned.adam import Adam
from fedwarm.partitioned.masks import Layout, chunks_of, shares_of
from fedwarm.settings.fields import SettingError

DRAWS = np.random.default_rng(0)
ARRAYS = {"a": DRAWS.normal(size=(60, 50)).astype(np.float32), "b": DRAWS.normal(size=(60,)).astype(np.float32)}
SHARES = (0.6, 0.25, 0.15)


def layout(seed: int = 7) -> Layout:
    return Layout.drawn(ARRAYS, SHARES, seed)


def test_every_weight_is_in_one_partition_of_its_share() -> None:
    made, total = layout(), sum(array.size for array in ARRAYS.values())
    assert made.sizes.sum() == total
    covered = sum(mask.astype(int) for mask in (made.mask(k)["a"] for k in (1, 2, 3)))
    assert np.array_equal(covered, np.ones((60, 50)))
    for size, share in zip(made.sizes, SHARES, strict=True):
        assert abs(size - share * total) < 3 * (total * share * (1 - share)) ** 0.5


def test_every_process_draws_the_same() -> None:
    """A number that was computed in another process."""
    own = Layout.drawn({"a": np.zeros((60, 50))}, SHARES, 7).codes["a"]
    assert int(np.sum(own * np.arange(50), dtype=np.int64)) == 114252
    assert not np.array_equal(layout(8).codes["a"], layout(7).codes["a"])


def test_the_last_subnetwork_is_the_whole_one_and_the_one_before_the_first_all_defaults() -> None:
    made, other = layout(), {name: array + 1 for name, array in ARRAYS.items()}
    for name in ARRAYS:
        assert np.array_equal(made.subnetwork(other, 3)[name], other[name])
        assert np.array_equal(made.subnetwork(other, 0)[name], ARRAYS[name])
        mixed = made.subnetwork(other, 1)[name]
        assert np.array_equal(mixed != ARRAYS[name], made.mask(1)[name])


def test_partitions_travel_packed_and_come_back() -> None:
    made, zeros = layout(), {name: np.zeros_like(array) for name, array in ARRAYS.items()}
    back = made.placed(zeros, {k: made.packed(ARRAYS, k) for k in (1, 2, 3)})
    assert all(np.array_equal(back[name], ARRAYS[name]) for name in ARRAYS)
    assert len(made.packed(ARRAYS, 2)) == made.sizes[1] and not zeros["a"].any()


def test_shares_are_the_usual_or_those_given() -> None:
    assert shares_of([], 3) == pytest.approx(SHARES) and shares_of([], 7) == pytest.approx((1 / 7,) * 7)
    assert shares_of([2, 2], 2) == (0.5, 0.5)
    for wrong in ([0.5], [0.5, 0.0], [1, 1, 1]):
        with pytest.raises(SettingError, match=r"partitioned-hpo.shares has \d numbers, .* asks for 2 above 0"):
            shares_of(wrong, 2)
    with pytest.raises(SettingError, match=r"partitioned-hpo.chunk-sizes has 2 numbers, \[1.0, 2.0\]"):
        PartitionedHpo(chunk_sizes="1,2").chunk_table(6, 0)
    with pytest.raises(SettingError, match="too few"):
        Layout.drawn({"a": np.zeros(2)}, SHARES, 0)


def test_chunks_have_their_sizes_and_one_client_at_least() -> None:
    assert np.bincount(chunks_of(30, (1, 1, 1), 0, "random"))[1:].tolist() == [10, 10, 10]
    assert chunks_of(5, (1, 1, 1), 0, "in-order").tolist() == [1, 1, 2, 3, 3]
    assert sorted(chunks_of(4, (100, 1, 1), 0, "random").tolist()) == [1, 1, 2, 3]
    assert chunks_of(30, (1, 1, 1), 0, "random").tolist() != chunks_of(30, (1, 1, 1), 1, "random").tolist()
    assert sorted(chunks_of(2, (1, 1, 1), 0, "random").tolist()) == [1, 3]


def test_the_mean_bytes_of_a_client_in_mode_b() -> None:
    """Down .817 and up .333 of the network on average over equal chunks of shares .6, .25 and .15."""
    arrays = {"a": np.zeros((400, 500), np.float32)}
    sizes = Layout.drawn(arrays, SHARES, 1).sizes / 200_000
    down, up = np.mean(np.cumsum(sizes)), np.mean(sizes)
    assert down == pytest.approx(0.817, rel=0.02) and up == pytest.approx(0.333, rel=0.02)


def test_adam_is_torchs() -> None:
    values, adam = np.array([1.0, -2.0, 0.5]), Adam(0.05)
    leaf = torch.from_numpy(values.copy()).requires_grad_()
    theirs = torch.optim.Adam([leaf], lr=0.05)
    for step in range(5):
        gradient = np.array([0.3, -0.1 * step, 2.0 * (-1) ** step])
        values, adam = adam.step(values, gradient)
        leaf.grad = torch.from_numpy(gradient)
        theirs.step()
    assert values == pytest.approx(leaf.detach().numpy(), abs=1e-12)

"""Clusterings of distances: planted blobs are found by every kind, numbered by their first members."""

from __future__ import annotations

import numpy as np
import pytest
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from fedwarm.core.clusters import AFFINITY, CLUSTERINGS, HDBSCAN, K_MEANS, MEAN_SHIFT, Clustering, ordered


def blobs(groups: list[int], near: float = 0.1, far: float = 1.0) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Distances that are `near` within a group and `far` between groups, each a little different."""
    codes, noise = np.array(groups), np.random.default_rng(0).uniform(0, 0.01, (len(groups),) * 2)
    found = np.where(codes[:, None] == codes, near, far) + noise + noise.T
    np.fill_diagonal(found, 0)
    return np.asarray(found, dtype=np.float64)


@pytest.mark.parametrize("kind", CLUSTERINGS)
@pytest.mark.parametrize("groups", [[0] * 5 + [1] * 5, [0, 1, 1, 0, 1, 0, 1, 0, 0, 1], [0, 1, 2] * 5], ids=str)
def test_tight_blobs_are_found(kind: str, groups: list[int]) -> None:
    count = len(set(groups))
    for near in (0.1, 0.3):
        assert Clustering(kind, 3, count).of(blobs(groups, near)) == (groups, None)


def test_clusters_are_numbered_by_their_smallest_member() -> None:
    assert ordered(np.array([7, 2, 7, -1, 2, 5])).tolist() == [0, 1, 0, 2, 1, 3]


def test_noise_is_a_cluster_that_is_told() -> None:
    """Two blobs, and two items that lie far from all: these are one cluster, at its place by its first member."""
    found, rest = Clustering(HDBSCAN).of(blobs([0, 0, 8, 0, 1, 1, 1, 9, 0, 1], far=1.0))
    assert found == [0, 0, 1, 0, 2, 2, 2, 1, 0, 2] and rest == 1


@pytest.mark.parametrize("kind", [HDBSCAN, MEAN_SHIFT, K_MEANS, AFFINITY])
def test_few_or_equal_items_give_no_error(kind: str) -> None:
    for distances in (np.zeros((1, 1)), np.zeros((2, 2)), np.zeros((6, 6)), np.ones((5, 5)) - np.eye(5)):
        found, rest = Clustering(kind).of(distances)
        assert len(found) == len(distances) and found[0] == 0 and rest in (None, *found)


def test_all_noise_is_one_cluster() -> None:
    assert Clustering(HDBSCAN, smallest=6).of(blobs([0, 0, 0, 1, 1])) == ([0] * 5, None)


@pytest.mark.parametrize("kind", CLUSTERINGS)
def test_threads_and_the_order_of_items_do_not_matter(kind: str) -> None:
    distances, order = blobs([0, 1, 2] * 8), np.random.default_rng(1).permutation(24)
    with threadpool_limits(1):
        one = Clustering(kind, count=3).of(distances)
    with threadpool_limits(4):
        assert Clustering(kind, count=3).of(distances) == one
    turned, _ = Clustering(kind, count=3).of(distances[np.ix_(order, order)])
    assert turned == ordered(np.array(one[0])[order]).tolist()

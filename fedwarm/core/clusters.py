"""Clusters of a few items, the same on every machine: k-means on whole numbers, and clusterings of a matrix of distances.

Whole numbers have exact sums in float64, in whatever order they are added. Clusters are numbered by their first members.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedwarm.core.seeds import numpy_generator

Codes = NDArray[np.int64]
Points = NDArray[np.float64]
FINE, LONGEST, RESTARTS, NOISE = 4096.0, 100, 10, -1
HDBSCAN, MEAN_SHIFT, AFFINITY, K_MEANS = "hdbscan", "mean-shift", "affinity-propagation", "k-means"


def nearest(points: Points, centres: Points) -> tuple[Codes, Points]:
    """The nearest centre of each point, the first of those at the same distance, and the squared distance (n,)."""
    distances = np.square(points).sum(1)[:, None] - 2 * points @ centres.T + np.square(centres).sum(1)
    codes = distances.argmin(1)
    return codes, distances[np.arange(len(points)), codes]


def k_means(points: Points, count: int, draws: np.random.Generator) -> tuple[Codes, float]:
    """One start of k-means: clusters (n,) and the sum of squared distances.

    Arthur, Vassilvitskii, "k-means++: The Advantages of Careful Seeding", SODA 2007, then Lloyd's iteration. A cluster that loses
    all its points keeps its centre.
    """
    centres = points[draws.integers(len(points))][None]
    while len(centres) < count:
        chances = np.cumsum(nearest(points, centres)[1])
        chosen = np.searchsorted(chances, draws.random() * chances[-1], side="right")
        centres = np.concatenate([centres, points[[min(chosen, len(points) - 1)]]])
    codes, distances = nearest(points, centres)
    for _ in range(LONGEST):
        for j in np.unique(codes):
            centres[j] = np.rint(points[codes == j].mean(0))
        before, (codes, distances) = codes, nearest(points, centres)
        if np.array_equal(before, codes):
            break
    return codes, float(distances.sum())


def best_means(points: Points, count: int, restarts: int, draws: np.random.Generator) -> Codes:
    """The best of several starts of k-means: clusters (n,)."""
    codes, _ = min((k_means(points, count, draws) for _ in range(restarts)), key=lambda found: found[1])
    return ordered(codes)


def ordered(codes: Codes) -> Codes:
    """Clusters (n,) numbered from 0 by their first members."""
    _, first, numbers = np.unique(codes, return_index=True, return_inverse=True)
    return np.asarray(first.argsort().argsort()[numbers], dtype=np.int64)


@dataclass(frozen=True)
class Clustering:
    """How items are clustered by their distances.

    Attributes:
        kind: a name of `CLUSTERINGS`.
        smallest: of HDBSCAN, the fewest members of a cluster.
        count: of k-means, the number of clusters.
    """

    kind: str
    smallest: int = 3
    count: int = 4

    def of(self, distances: Points) -> tuple[list[int], int | None]:
        """The cluster of each item by distances (n, n), and which one is of those that fit in none; one of all where none is."""
        codes = CLUSTERINGS[self.kind](self, distances)
        if (codes == NOISE).all():
            return [0] * len(codes), None
        found = ordered(codes)
        rest = found[codes == NOISE]
        return found.tolist(), int(rest[0]) if len(rest) else None


def _hdbscan(how: Clustering, distances: Points) -> Codes:
    """Campello, Moulavi, Sander, "Density-Based Clustering Based on Hierarchical Density Estimates", PAKDD 2013."""
    from sklearn import cluster

    if len(distances) < how.smallest:
        return np.full(len(distances), NOISE)
    found = cluster.HDBSCAN(min_cluster_size=how.smallest, metric="precomputed", copy=True).fit(distances)
    return np.asarray(np.maximum(found.labels_, NOISE), dtype=np.int64)


def _mean_shift(how: Clustering, distances: Points) -> Codes:
    """Comaniciu, Meer, "Mean Shift: A Robust Approach toward Feature Space Analysis", TPAMI 24 (2002); rows are the points."""
    from sklearn.cluster import MeanShift, estimate_bandwidth

    points = np.rint(distances * FINE)
    return np.asarray(MeanShift(bandwidth=max(1.0, float(estimate_bandwidth(points)))).fit(points).labels_, dtype=np.int64)


def _affinity_propagation(how: Clustering, distances: Points) -> Codes:
    """Frey, Dueck, "Clustering by Passing Messages Between Data Points", Science 315 (2007); without an end all are noise."""
    from sklearn.cluster import AffinityPropagation

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it found no end is told by the labels
        found = AffinityPropagation(affinity="precomputed", random_state=0).fit(-distances)
    return np.asarray(found.labels_, dtype=np.int64)


def _k_means(how: Clustering, distances: Points) -> Codes:
    """The rows of the distances are the points."""
    draws = numpy_generator(0, "clusters")
    return best_means(np.rint(distances * FINE), min(how.count, len(distances)), RESTARTS, draws)


CLUSTERINGS: Mapping[str, Callable[[Clustering, Points], Codes]] = {
    HDBSCAN: _hdbscan, MEAN_SHIFT: _mean_shift, AFFINITY: _affinity_propagation, K_MEANS: _k_means,
}  # fmt: skip

"""Pruning by magnitude: of a trained model the smallest weights, or the units with the smallest weights, are set to zero.

Han, Pool, Tran, Dally, "Learning both Weights and Connections for Efficient Neural Networks", NeurIPS 2015, arXiv 1506.02626;
units by their norms: Li, Kadav, Durdanovic, Samet, Graf, "Pruning Filters for Efficient ConvNets", ICLR 2017, arXiv 1608.08710.
"""

from __future__ import annotations

import numpy as np

from fedwarm.core.arrays import Arrays
from fedwarm.sparse.groups import Groups, Mask, Masks


def largest(scores: Arrays, density: float) -> Masks:
    """The largest scores of all layers together, so many that `density` of all numbers is left; vectors (biases) all stay."""
    total = sum(array.size for array in scores.values())
    weights = [name for name, array in scores.items() if array.ndim > 1]
    keep = max(0, round(density * total) - (total - sum(scores[name].size for name in weights)))
    flat = np.concatenate([scores[name].reshape(-1) for name in weights])
    kept = np.zeros(flat.size, np.bool_)
    kept[np.argsort(-flat, kind="stable")[:keep]] = True
    out, start = {name: np.ones(array.shape, np.bool_) for name, array in scores.items()}, 0
    for name in weights:
        out[name], start = kept[start : start + scores[name].size].reshape(scores[name].shape), start + scores[name].size
    return out


def by_weight(arrays: Arrays, density: float) -> Arrays:
    """The largest weights, see `largest`; the others are zero."""
    kept = largest({name: np.abs(array) for name, array in arrays.items()}, density)
    return {name: np.where(kept[name], array, 0).astype(array.dtype) for name, array in arrays.items()}


def by_unit(groups: Groups, arrays: Arrays, density: float) -> Arrays:
    """Without the units whose weights have the smallest root mean square, until at most `density` of all numbers is left."""
    squares = [groups.rows(site, np.square(arrays[site.weight].astype(np.float64))).mean(1) for site in groups.sites]
    order = np.argsort(np.concatenate([np.empty(0), *squares]), kind="stable")
    total = sum(array.size for array in arrays.values())

    def alive(gone: int) -> Mask:
        mask = np.ones(groups.count, np.bool_)
        mask[order[:gone]] = False
        return groups.closed(mask)

    low, high = 0, groups.count
    while low < high:
        middle = (low + high) // 2
        left = sum(int(part.sum()) for part in groups.live(alive(middle)).values())
        low, high = (low, middle) if left <= density * total else (middle + 1, high)
    return groups.switched(arrays, alive(low).astype(np.float64))


def density_of(arrays: Arrays) -> float:
    """The share of a model's numbers that are not zero."""
    return sum(int(np.count_nonzero(array)) for array in arrays.values()) / sum(array.size for array in arrays.values())

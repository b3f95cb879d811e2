"""Means by group, over the clients that sent each: one running sum, whatever the number of replies."""

from __future__ import annotations

import numpy as np

from fedwarm.core.arrays import Arrays
from fedwarm.sparse.groups import Floats, Groups, Masks


class GroupMean:
    """sum_s a_s v_sg x_sg / sum_s a_s v_sg for each group g, of what was sent; tensors of no group have v = 1.

    As `core.arrays.WeightedMean`: float64 inside, one client at a time. Where everything is sent and v = 1 it has the same bits.
    """

    def __init__(self, groups: Groups) -> None:
        self.groups = groups
        self.sums = {name: np.zeros(shape) for name, shape in groups.shapes.items()}
        self.weights = np.zeros(groups.count)
        self.weight = 0.0

    def add(self, arrays: Arrays, chosen: Masks, values: Floats, weight: float) -> None:
        """Add one client's.

        Args:
            arrays: full tensors; what was not chosen is not looked at.
            chosen: what of them was sent.
            values: v (G,), 0 for groups that were not sent.
            weight: a, positive.
        """
        for name, total in self.sums.items():
            factor = weight * self.values(name, values)
            total += np.where(chosen[name], arrays[name].astype(np.float64) * factor, 0.0)
        self.weights += weight * values
        self.weight += weight

    def values(self, name: str, values: Floats, other: float = 1.0) -> Floats:
        """Values of the groups (G,) so that they broadcast over a tensor; `other` for one of no group."""
        return self.groups.spread(name, values) if name in self.groups.places else np.asarray(other)

    def result(self, before: Arrays) -> Arrays:
        """The means; what nobody sent stays as it was before, of the same dtypes."""
        out = dict(before)
        for name, total in self.sums.items():
            weight = self.values(name, self.weights, self.weight)
            sent = np.broadcast_to(weight > 0, total.shape)
            mean = np.divide(total, weight, out=before[name].astype(np.float64), where=sent)
            out[name] = mean.astype(before[name].dtype)
        return out

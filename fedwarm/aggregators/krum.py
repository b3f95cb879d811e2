"""The rule `krum`: the replies that lie nearest to their neighbours.

Blanchard, El Mhamdi, Guerraoui, Stainer, "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent", NeurIPS 2017,
arXiv 1703.02757, Section 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedwarm.aggregators import Held, Robust
from fedwarm.core.arrays import Arrays, WeightedMean
from fedwarm.core.norms import Floats, blocks, floats
from fedwarm.core.sums import lanes, total


class Krum(Held):
    """The mean of the `robust.keep` replies that lie nearest to their neighbours; of one, its arrays as they are.

    With f = `robust.byzantine` replies that may be anything and m = `robust.keep`, it needs n >= 2 f + 3 replies, and n >= m + f,
    since all m must be honest. Of equally near replies the earlier is taken.
    """

    uses = staticmethod(lambda run: ("robust.byzantine", "robust.keep") if run.averages else ())

    @staticmethod
    def fewest(robust: Robust) -> int:
        """The fewest replies that it can do with."""
        return max(2 * robust.byzantine + 3, robust.keep + robust.byzantine)

    def combine(self) -> Arrays:
        byzantine, keep, fewest = self.robust.byzantine, self.robust.keep, self.fewest(self.robust)
        if len(self.replies) < fewest:
            numbers = f"robust.byzantine = {byzantine} and robust.keep = {keep}"
            raise ValueError(f"krum with {numbers} needs at least {fewest} replies, got {len(self.replies)}")
        chosen = np.argsort(krum_scores(self.replies, byzantine), kind="stable")[:keep]
        mean = WeightedMean()
        for i in sorted(chosen.tolist()):
            mean.add(self.replies[i], 1.0)
        return mean.result()


def krum_scores(replies: Sequence[Arrays], byzantine: int) -> Floats:
    """s(i) = sum of ||x_i - x_j||^2 over the n - f - 2 replies j nearest to i, itself not counted: (n,)."""
    squares = _squared_distances(replies)
    np.fill_diagonal(squares, np.inf)
    nearest = np.sort(squares, axis=1)[:, : len(replies) - byzantine - 2]
    return np.array([total(row) for row in nearest.tolist()])


def _squared_distances(replies: Sequence[Arrays]) -> Floats:
    """||x_i - x_j||^2: (n, n), from differences, since ||x||^2 + ||y||^2 - 2 x.y loses what is small beside a liar's norm."""
    squares = np.zeros((len(replies), len(replies)))
    with np.errstate(over="ignore", invalid="ignore"):
        for name in sorted(floats(replies[0])):  # replies that came by way of a file have another order
            for values in blocks(replies, name):
                for i in range(len(replies) - 1):
                    parts = lanes(np.square(values[i + 1 :] - values[i]))
                    squares[i, i + 1 :] += [total(row) for row in parts.tolist()]
    return squares + squares.T


COMPONENT = Krum

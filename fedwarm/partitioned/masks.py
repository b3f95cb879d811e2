"""Which partition each weight of a network belongs to, drawn once from a seed, and partitions as packed vectors.

Subnetwork k, w^(k), has the partitions 1 to k, and the default values of all weights behind them; w^(K) is the whole network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedwarm.core.arrays import Arrays
from fedwarm.core.seeds import numpy_generator
from fedwarm.settings.fields import SettingError

Codes = dict[str, NDArray[np.uint8]]
USUAL: dict[int, tuple[float, ...]] = {
    1: (1.0,), 2: (0.7, 0.3), 3: (0.6, 0.25, 0.15), 4: (0.5, 0.2, 0.15, 0.15), 5: (0.4, 0.2, 0.15, 0.15, 0.1),
}  # fmt: skip


def shares_of(given: Sequence[float], count: int, key: str = "partitioned-hpo.shares") -> tuple[float, ...]:
    """Shares that sum to 1 of `count` partitions; those of `USUAL`, or equal ones, where none are given by the setting `key`.

    Raises:
        SettingError: there are not as many, or one is not above 0.
    """
    usual = USUAL.get(count, (1.0,) * count)
    if given and (len(given) != count or min(given) <= 0):
        raise SettingError(
            f"{key} has {len(given)} numbers, {list(given)}, and partitioned-hpo.chunks = {count} asks for {count} above 0; give "
            "as many, or none for the usual ones"
        )
    found = tuple(given) or usual
    return tuple(share / sum(found) for share in found)


@dataclass(frozen=True, eq=False)
class Layout:
    """Partitions of a network.

    Attributes:
        codes: the partition of every weight, from 1, by tensor and in its shape.
        defaults: what a weight is where its partition is missing.
        count: K.
    """

    codes: Codes
    defaults: Arrays
    count: int

    @classmethod
    def drawn(cls, defaults: Arrays, shares: Sequence[float], seed: int) -> Layout:
        """Every weight alone goes to partition k with the probability `shares[k - 1]`: the same for the same seed everywhere.

        Raises:
            SettingError: a partition got no weight.
        """
        draws, count = numpy_generator(seed, "partitions"), len(shares)
        edges = np.cumsum(shares)[:-1]
        codes = {
            n: (np.searchsorted(edges, draws.random(a.shape), side="right") + 1).astype(np.uint8) for n, a in defaults.items()
        }
        layout = cls(codes, defaults, count)
        if (layout.sizes == 0).any():
            raise SettingError(
                f"{sum(a.size for a in defaults.values())} weights are too few for {count} partitions of such shares; "
                "lower partitioned-hpo.chunks, or take a larger model"
            )
        return layout

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Weights of each partition (K,)."""
        counts = [np.bincount(codes.reshape(-1), minlength=self.count + 1)[1:] for codes in self.codes.values()]
        return np.asarray(np.sum(counts, axis=0), np.int64)

    def mask(self, partition: int) -> dict[str, NDArray[np.bool_]]:
        """Where a partition's weights are."""
        return {name: codes == partition for name, codes in self.codes.items()}

    def packed(self, arrays: Arrays, partition: int) -> NDArray[np.generic]:
        """A partition's weights (n,), tensor by tensor."""
        return np.concatenate([arrays[name][mask] for name, mask in self.mask(partition).items()])

    def subnetwork(self, arrays: Arrays, partition: int) -> Arrays:
        """w^(k) of the whole network's arrays; all defaults for 0."""
        return {n: np.where(codes <= partition, arrays[n], self.defaults[n]) for n, codes in self.codes.items()}

    def placed(self, arrays: Arrays, parts: Mapping[int, NDArray[np.generic]]) -> Arrays:
        """The arrays with the packed weights of partitions in their places."""
        out = {name: np.array(array) for name, array in arrays.items()}
        for partition, values in parts.items():
            at = 0
            for name, mask in self.mask(partition).items():
                size = int(np.count_nonzero(mask))
                out[name][mask] = values[at : at + size]
                at += size
        return out


def chunks_of(clients: int, sizes: Sequence[float], seed: int, how: str) -> NDArray[np.int64]:
    """The chunk of each client (clients,), from 1: `random`, or `in-order` of their numbers; none is empty where that can be."""
    edges = np.rint(np.cumsum(sizes) / np.sum(sizes) * clients).astype(np.int64)
    for k in range(len(sizes) if clients >= len(sizes) else 0):
        edges[k] = min(max(edges[k], k + 1), clients - (len(sizes) - 1 - k))
    placed = np.repeat(np.arange(1, len(sizes) + 1), np.diff(edges, prepend=0))
    order = numpy_generator(seed, "chunks").permutation(clients) if how == "random" else np.arange(clients)
    found = np.empty(clients, np.int64)
    found[order] = placed
    return found

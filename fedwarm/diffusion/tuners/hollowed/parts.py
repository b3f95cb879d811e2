"""Which part of an adapter each client sends, as the server knows it.

A client's depth follows from the settings and the foundation, so that the server knows its matrices by name. Where a client is
to find its depth by itself, from its budget of memory in its own precision, the server takes the matrices of any depth.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from fedwarm.core.arrays import Arrays
from fedwarm.diffusion.tuners import Parts
from fedwarm.diffusion.tuners.hollowed.cuts import cuts
from fedwarm.diffusion.tuners.hollowed.plan import cut_of, outside
from fedwarm.diffusion.tuners.hollowed.settings import NONE, Hollowed, aligned, depth_of, unsettled


@dataclass(frozen=True)
class HollowedParts(Parts):
    """What each client sends of an adapter, by its depth."""

    hollowed: Hollowed

    @cached_property
    def _known(self) -> dict[int, Arrays]:
        return {}

    def of(self, client: int) -> Arrays:
        """What lies outside a client's core; all of it where only the client knows its depth.

        Raises:
            SettingError: see `cut_of`.
        """
        depth = depth_of(self.hollowed, client)
        if depth not in self._known:
            own = unsettled(self.hollowed, client)
            cut = None if own else cut_of(self.foundation, self.settings, self.hollowed, client)
            self._known[depth] = outside(cut, self.whole) if cut else self.whole
        return self._known[depth]

    def answered(self, client: int, names: Iterable[str]) -> Arrays:
        """What a client's reply with arrays of these names must hold.

        Raises:
            ValueError: the names are another depth's than this client's, or of no depth where any will do.
        """
        told, own = set(names), self.of(client)
        found = next(((d, part) for d, part in self._at_depths() if part.keys() == told), None)
        if unsettled(self.hollowed, client):
            if found is None:
                raise ValueError(f"its {len(told)} arrays are those of no depth of this foundation")
            return found[1]
        if told != own.keys() and (found is not None or told == self.whole.keys()):
            told_depth, given = found[0] if found else NONE, depth_of(self.hollowed, client)
            raise ValueError(f"its adapter is that of depth {told_depth}; client {client} has depth {given} by hollowed.depth(s)")
        return own

    def _at_depths(self) -> Iterator[tuple[int, Arrays]]:
        for cut in cuts(self.foundation.net, self.settings.targets):
            yield cut.depth, outside(cut, self.whole)

    def used(self, sent: Mapping[int, Arrays]) -> dict[int, Arrays]:
        """The adapters with the matrices that `hollowed.mixed` leaves or gives them."""
        return dict(zip(sent, aligned(list(sent.values()), self.hollowed.mixed), strict=True))

"""Whose partition is whose: within a run a partition belongs to one registered name, and a registered name has one partition.

The SuperLink knows a node by its key, which was registered under a name (Flower 1.38 and later); a node cannot choose it. So who
was let in as one site cannot take the place of another, get what is meant for it, or count twice. By default the first claim
binds, for the rest of the run and over a resume; the setting `nodes.partitions` binds from the start. Nodes without names bind
nothing, and what is bound is closed to them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedwarm.rounds.fleet import FederationError, clean

LONGEST = 64


class NotAdmitted(FederationError):  # noqa: N818
    """A node may not have the partition that it claims; the run goes on without it."""


class Bindings:
    """Names and their partitions.

    Args:
        given: by the setting `nodes.partitions`; empty: by first claim.
        before: by first claim, in an earlier part of the run.
    """

    def __init__(self, given: Mapping[str, int], before: Mapping[str, Any]) -> None:
        self.listed = dict(given)
        self.partitions: dict[str, int] = dict(given) or {str(name): int(place) for name, place in before.items()}

    def admit(self, name: str, partition: int) -> None:
        """See that a node of this registered name (empty: it has none) may have a partition.

        Raises:
            NotAdmitted: it may not.
        """
        owner, own = self.owner(partition), self.partitions.get(name)
        if name and name == owner:
            return
        who = f"is registered as {shown(name)}" if name else "has no registered name"
        if owner:
            raise NotAdmitted(f"it {who} and claims partition {partition}, which belongs to {shown(owner)}; {self._remedy()}")
        if self.listed and name not in self.listed:
            listed = ", ".join(f"{shown(each)}={place}" for each, place in self.listed.items())
            raise NotAdmitted(f"it {who}, which nodes.partitions does not list; it lists {listed}")
        if own is not None:
            raise NotAdmitted(
                f"it {who} and claims partition {partition}, while {shown(name)} has partition {own}; a name has one, so "
                f"give the node partition-id={own}"
            )

    def bind(self, name: str, partition: int) -> None:
        """A partition is a name's from here on."""
        if name:
            self.partitions[name] = partition

    def owner(self, partition: int) -> str:
        """Whose a partition is; empty where it is nobody's."""
        return next((name for name, own in self.partitions.items() if own == partition), "")

    def takes(self, site: str) -> bool:
        """Whether what a node without a registered name calls itself is a name that another one was registered under."""
        return bool(site) and site in map(clean, self.partitions)

    def fit(self, size: int) -> None:
        """See that the federation has the partitions that the setting gives away.

        Raises:
            FederationError: it has fewer.
        """
        for name, partition in self.listed.items():
            if partition >= size:
                raise FederationError(
                    f"nodes.partitions gives {shown(name)} partition {partition}, and the nodes have 0 to {size - 1} "
                    f"(num-partitions = {size})"
                )

    def _remedy(self) -> str:
        return "give it its own partition-id" + (", or change nodes.partitions" if self.listed else "")


def shown(name: str) -> str:
    """A registered name as it may stand in a log."""
    return f"'{clean(name)}'" if clean(name) else ascii(name[:LONGEST])

"""How long a run waits, and how many replies it needs: in simulation, where all clients are there, and on real nodes.

In simulation a result is a function of settings and seed, so all must answer. Machines are switched off, hang and come back:
there a stage goes on with those who answered in time, half of them by default.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedwarm.settings.config import General
from fedwarm.settings.fields import Group, SettingError, setting

SIMULATED_SECONDS = 43200.0
STAGE_SECONDS, DRAWING_SECONDS = 900.0, 7200.0
DRAWING = ("augment", "adapt", "distill")


@dataclass(frozen=True)
class Nodes(Group, prefix="nodes", used=lambda r: r.real):
    """Settings of runs on real nodes; in simulation they change nothing."""

    least: int = setting(
        0,
        "least number of real nodes that a run needs to start and to continue; 0: min-replies, or half of nodes.expected or, "
        "where that is 0, too, of its partitions",
        low=0,
        free=True,
    )
    expected: int = setting(
        0,
        "number of real nodes that a run waits for at its start; 0: one for each partition, or those of a federation of sites "
        "that are online",
        low=0,
        free=True,
    )
    gather_timeout: float = setting(
        300.0,
        "seconds that a run waits for real nodes: at the start for all of them, later for nodes.least",
        low=0.0,
        free=True,
    )
    return_timeout: float = setting(
        120.0,
        "seconds that a stage waits for a real node that went away to come back and be asked again",
        low=0.0,
        free=True,
    )
    partitions: str = setting(
        "",
        "partition of each registered node, e.g. `hospital-a=0,hospital-b=1`; empty: a node keeps the partition "
        "that it claims first",
    )


def bound(nodes: Nodes, count: int = 0) -> dict[str, int]:
    """The names and partitions of the setting `partitions`; `count` is how many there are, where that is known.

    Raises:
        SettingError: it is no such list.
    """
    found: dict[str, int] = {}
    for part in nodes.partitions.split(",") if nodes.partitions.strip() else []:
        name, _, number = (word.strip() for word in part.rpartition("="))
        where = f"nodes.partitions = {nodes.partitions!r}"
        if not name or not (number.isascii() and number.isdigit()):
            raise SettingError(f"{where}: {part.strip()!r} must be a name and a partition, e.g. 'hospital-a=0,hospital-b=1'")
        if name in found or int(number) in found.values():
            raise SettingError(
                f"{where}: {part.strip()!r} names a node or a partition a second time; give each node one partition of its own"
            )
        if count and int(number) >= count:
            raise SettingError(f"{where}: {number} is not a partition; give 0 to {count - 1}")
        found[name] = int(number)
    return found


@dataclass(frozen=True)
class Patience:
    """How long a stage waits for a reply, and how many it needs.

    Attributes:
        real: whether the nodes are real ones.
        timeout: the setting `stage-timeout`.
        replies: the setting `min-replies`.
        least: what a stage's aggregation needs, whatever `replies` allows and however few are there.
    """

    real: bool = False
    timeout: float = 0.0
    replies: int = 0
    least: int = 0

    @classmethod
    def of(cls, run: General, real: bool) -> Patience:
        """That of a run."""
        return cls(real, run.stage_timeout, run.min_replies)

    def seconds(self, stage: str = "") -> float:
        """How long a reply of a stage may take."""
        if self.timeout:
            return self.timeout
        if not self.real:
            return SIMULATED_SECONDS
        return DRAWING_SECONDS if stage in DRAWING else STAGE_SECONDS

    def wanted(self, asked: int) -> int:
        """How many of the clients that are asked must answer."""
        return max(self.least, min(self.replies or (half(asked) if self.real else asked), asked))

    def needing(self, least: int, everyone: bool = False) -> Patience:
        """The same of a stage that needs so many, or all of those that are there; real nodes may still be lost in it."""
        return Patience(self.real, self.timeout, 0 if everyone else self.replies, least)


def half(count: int) -> int:
    """At least half of so many, and one of one."""
    return (count + 1) // 2

"""Which node is which client: what nodes say of themselves, in the order in which they came, and the fleet that follows from it.

Two nodes may claim one partition: by mistake, or because a machine came back under another id while the server still believes
in the old one. The first holds it while it is there; the other is not asked, and takes its place when it is gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import version
from typing import Any

from fedwarm.core.inputs import Form
from fedwarm.core.payload import Payload, short
from fedwarm.core.version import VERSION, fits
from fedwarm.record.ledger import called
from fedwarm.rounds.bindings import Bindings
from fedwarm.rounds.fleet import (
    CLIENTS_AT_MOST,
    FederationError,
    Fleet,
    Member,
    UnfitError,
    agreed,
    check_names,
    clean,
    member_of,
)


@dataclass(frozen=True)
class Claim:
    """A node that says which partition it is."""

    member: Member
    answer: Payload


class Register:
    """All claims.

    Args:
        before: the clients that an earlier part of the run knew, as `remembered` tells them.
        bindings: which registered names have which partitions.
        own: each node brings its own data, and the run's classes are the union of theirs.
        classes: the run's classes in that case, where they are settled before anybody came.
    """

    def __init__(
        self,
        before: Iterable[dict[str, Any]] = (),
        bindings: Bindings | None = None,
        own: bool = False,
        classes: Iterable[str] = (),
    ) -> None:
        self.own, self.classes = own, tuple(classes)
        self.bindings = bindings or Bindings({}, {})
        self.registered: dict[int, str] = {}  # the nodes' registered names
        self.members = {int(told["partition"]): _away(told) for told in before}
        self.claims: dict[int, dict[int, Claim]] = {}
        self.size = 0
        self.facts: tuple[tuple[str, ...], Form] | None = None
        self.fleet = Fleet((), (), 0, steady=False)

    def take(self, node: int, answer: Payload, name: str) -> None:
        """Take in what a node says of itself; `name` is its registered one, empty where it has none.

        Raises:
            PayloadError: it cannot be.
            NotAdmitted: the partition is another's.
            FederationError: it does not fit to the others.
        """
        size = answer.count("partitions", 1, CLIENTS_AT_MOST)
        if self.size and size != self.size:
            others = several(clean(self.registered[each]) or f"node {each}" for claims in self.claims.values() for each in claims)
            who = f"{size} by {clean(name) or f'node {node}'}, {self.size} by {others or 'those before'}"
            raise FederationError(
                f"the nodes disagree on num-partitions: {self.size} and {size} ({who}); give all the same, sites a new kit"
            )
        check_versions(answer, {"fedwarm": VERSION, "flwr": version("flwr")})
        if self.own:
            check_names(answer)
        known = self.classes if self.facts is None else self.facts[0]
        facts = agreed([answer], known=known if self.own else ())
        if self.facts is not None and facts != self.facts:
            raise FederationError("it speaks of other classes or another size of images than the run; see data.name")
        partition = answer.count("partition", 0, size - 1)
        self.bindings.fit(size)
        self.bindings.admit(name, partition)
        self.size = size
        member = member_of(partition, node, answer, facts[0], clean(name))
        self.bindings.bind(name, partition)
        self.registered[node] = name
        self.claims.setdefault(partition, {})[node] = Claim(member, answer)

    def open(self) -> None:
        """The run begins with those that are here; who comes later has to fit to them.

        Raises:
            FederationError: they do not agree on the data set.
        """
        answers = [self.claims[partition][node].answer for partition, node in self.holders().items()]
        self.facts = agreed(answers, self.own, self.classes)
        for partition, claims in self.claims.items():
            self.claims[partition] = dict(self._by_the_runs_classes(claims))
        self.settle()

    def _by_the_runs_classes(self, claims: dict[int, Claim]) -> Iterator[tuple[int, Claim]]:
        """Claims by the classes that are settled now; one that does not fit is dropped, and refused when it comes again."""
        assert self.facts is not None
        for node, claim in claims.items():
            with suppress(UnfitError):
                member = claim.member
                yield node, Claim(member_of(member.partition, node, claim.answer, self.facts[0], member.name), claim.answer)

    def holders(self) -> dict[int, int]:
        """The node of each partition that has one: the first of those that claim it."""
        return {partition: next(iter(self.claims[partition])) for partition in sorted(self.claims) if self.claims[partition]}

    def rivals(self, partition: int) -> list[int]:
        """The nodes that claim a partition which another one holds."""
        return [*self.claims.get(partition, {})][1:]

    def claimed(self, node: int) -> list[int]:
        """The partitions that a node claims: one, or none."""
        return [partition for partition, claims in self.claims.items() if node in claims]

    def drop(self, node: int) -> None:
        """What a node said counts no longer."""
        for partition in self.claimed(node):
            del self.claims[partition][node]

    def missing(self) -> list[int]:
        """The partitions that no node holds."""
        holders = self.holders()
        return [partition for partition in range(self.size) if partition not in holders]

    def settle(self) -> list[Member]:
        """Bring the fleet up to date; those who came or went."""
        if self.facts is None:
            return []
        before, holders = dict(self.members), self.holders()
        for partition, node in holders.items():
            self.members[partition] = self.claims[partition][node].member
        for partition in self.members.keys() - holders.keys():
            self.members[partition] = replace(self.members[partition], here=False)
        for partition, member in self.members.items():
            if self.bindings.takes(member.name) and not self._is_registered(partition, holders):
                self.members[partition] = replace(member, name="")
        members = tuple(self.members.get(p) or Member.unknown(p) for p in range(self.size))
        if members != self.fleet.members:
            self.fleet = Fleet(members, *self.facts, steady=False)
        return [m for p, m in sorted(self.members.items()) if m.here != (p in before and before[p].here)]

    def _is_registered(self, partition: int, holders: dict[int, int]) -> bool:
        """Whether a client has its name by registration; of one that is away it is known by its partition."""
        return bool(self.registered.get(holders[partition]) if partition in holders else self.bindings.owner(partition))

    def label(self, partition: int) -> str:
        """How a client is called."""
        return self.members[partition].label if partition in self.members else called(partition)


def check_versions(answer: Payload, own: Mapping[str, str]) -> None:
    """See that a node has the major and minor versions of fedwarm and Flower here; one that tells none is taken as it is.

    Flower's SuperLink refuses another Flower nowhere (1.42), and what comes of it is an error of a run, later.

    Raises:
        UnfitError: it has not.
    """
    for name, here in own.items():
        told = answer.facts.get(name, here)
        if not isinstance(told, str) or not fits(told, here):
            raise UnfitError(f"it runs {name} {short(told)} and the server {here}; install {name}=={here} there")


def remembered(fleet: Fleet, bindings: dict[str, int]) -> dict[str, Any]:
    """What a checkpoint keeps of clients that come and go, as JSON."""
    members = [] if fleet.steady else [asdict(member) for member in fleet.members if member.known]
    return {name: told for name, told in {"members": members, "bindings": bindings}.items() if told}


def _away(entry: dict[str, Any]) -> Member:
    """A client of an earlier part of the run, who has to show up again."""
    counts = entry["counts"]
    lists = {"present": tuple(entry["present"]), "counts": None if counts is None else tuple(counts)}
    known = {each.name: entry[each.name] for each in fields(Member) if each.name in entry}
    return replace(Member(**{**known, **lists}), here=False, node=0)


def several(names: Iterable[str], most: int = 8) -> str:
    """Names in one line."""
    listed = [*names]
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def ordered(listed: dict[int, Any]) -> Iterator[int]:
    """Nodes in the order in which they were registered."""
    yield from sorted(listed, key=lambda node: (str(getattr(listed[node], "registered_at", "")), node))

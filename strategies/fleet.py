"""Who takes part: every node is asked once who it is, and clients are kept in the order of their partitions.

Flower's node ids are random in each run; partitions are not. So everything that must not depend on the run's luck (who is
sampled, the order of sums) goes by partition.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TypeVar

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from fedwarm.config import SettingError
from fedwarm.wire import Payload, PayloadError, from_records, is_unusable, to_records

from .reasons import reason

T = TypeVar("T", str, int)
POLL_SECONDS = 0.2
CLIENTS_AT_MOST = 10**6


class FederationError(RuntimeError):
    """The federation cannot go on; the message is one line that says why."""


@dataclass(frozen=True)
class Member:
    """One client, as it described itself."""

    partition: int
    node: int
    examples: int
    tests: int
    present: tuple[int, ...]
    counts: tuple[int, ...] | None


@dataclass(frozen=True)
class Fleet:
    """All clients, `members[i]` being partition i, and the data set's facts on which they agree."""

    members: tuple[Member, ...]
    classes: tuple[str, ...]
    image_size: int


def meet(grid: Grid, timeout_seconds: float) -> Fleet:
    """Ask every node who it is, and wait until all partitions of the federation have answered.

    Raises:
        SettingError: a node cannot use the settings, or its data.
        FederationError: nodes are missing at the end of the time, two share a partition, or what they say does not fit.
    """
    try:
        return _meet(grid, timeout_seconds)
    except PayloadError as error:
        raise FederationError(f"a node described itself wrongly: {error}") from error


def _meet(grid: Grid, timeout_seconds: float) -> Fleet:
    end = time.monotonic() + timeout_seconds
    known: dict[int, Payload] = {}
    expected = 1
    while len(known) < expected:
        fresh = sorted(n for n in grid.get_node_ids() if n not in known)
        for node, payload in _ask(grid, fresh, max(1.0, end - time.monotonic())).items():
            known[node] = payload
            said = payload.count("partitions", 1, CLIENTS_AT_MOST)
            if len(known) > 1 and said != expected:
                raise FederationError(f"the nodes disagree on num-partitions: {expected} and {said}; give all of them the same")
            expected = said
        if len(known) < expected:
            if time.monotonic() > end:
                raise FederationError(f"{len(known)} of {expected} nodes answered within {timeout_seconds:.0f} s")
            time.sleep(POLL_SECONDS)
    return _fleet(known, expected)


def _ask(grid: Grid, nodes: list[int], timeout_seconds: float) -> dict[int, Payload]:
    messages = [Message(content=to_records(Payload()), message_type=MessageType.QUERY, dst_node_id=n) for n in nodes]
    answers: dict[int, Payload] = {}
    for reply in grid.send_and_receive(messages, timeout=timeout_seconds) if messages else []:
        if reply.has_error():
            kind = SettingError if is_unusable(reply) else FederationError
            raise kind(f"node {reply.metadata.src_node_id} cannot take part: {reason(reply)}")
        answers[reply.metadata.src_node_id] = from_records(reply.content)
    return answers


def _fleet(known: dict[int, Payload], expected: int) -> Fleet:
    partitions = sorted(p.count("partition", 0, CLIENTS_AT_MOST) for p in known.values())
    if len(partitions) != expected or partitions != list(range(expected)):
        raise FederationError(f"partitions {partitions[:20]} are not 0 to {expected - 1}; give each node its own partition-id")
    by_partition = {p.count("partition"): node for node, p in known.items()}
    first = known[by_partition[0]]
    if any(p.facts.get("classes") != first.facts.get("classes") for p in known.values()):
        raise FederationError("the nodes disagree on the classes of the data set; give all of them the same data.name")
    if any(p.metrics.get("image-size") != first.metrics.get("image-size") for p in known.values()):
        raise FederationError("the nodes disagree on the size of images; give all of them the same data.image-size")
    classes = tuple(_list(first, "classes", str))
    members = tuple(_member(i, by_partition[i], known[by_partition[i]], len(classes)) for i in range(expected))
    return Fleet(members, classes, first.count("image-size", 1))


def _member(partition: int, node: int, answer: Payload, classes: int) -> Member:
    counts = tuple(_list(answer, "counts", int)) if "counts" in answer.facts else None
    present = tuple(_list(answer, "present", int))
    if not all(0 <= c < classes for c in present):
        raise PayloadError(f"'present' of client {partition} must hold numbers of classes, 0 to {classes - 1}")
    if counts is not None and (len(counts) != classes or min(counts) < 0):
        raise PayloadError(f"'counts' of client {partition} must hold one number of images for each of {classes} classes")
    return Member(partition, node, answer.count("num-examples"), answer.count("num-test"), present, counts)


def _list(payload: Payload, name: str, kind: type[T]) -> list[T]:
    value = payload.facts.get(name, [])
    if not isinstance(value, list) or not all(type(v) is kind for v in value):
        raise PayloadError(f"{name!r} must be a list of {kind.__name__}")
    return [v for v in value if isinstance(v, kind)]

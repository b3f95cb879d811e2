"""Who takes part: every node is asked once who it is, and clients are kept in the order of their partitions.

Flower's node ids are random in each run; partitions are not. So everything that must not depend on the run's luck (who is
sampled, the order of sums) goes by partition.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from fedwarm.core.inputs import DTYPES, Form
from fedwarm.core.payload import Fact, Payload, PayloadError, short
from fedwarm.data.classes import FEWEST, places, plain, shown, union
from fedwarm.flower.packing import SIGN
from fedwarm.flower.wire import from_records, is_unusable, to_records
from fedwarm.record.ledger import called
from fedwarm.rounds.reasons import reason
from fedwarm.settings.fields import SettingError

T = TypeVar("T", str, int)
POLL_SECONDS = 0.2
CLIENTS_AT_MOST, CLASSES_AT_MOST, NAME_AT_MOST, AXES_AT_MOST = 10**6, 10**5, 200, 8
NAME = re.compile(r"[\w][\w .:@+-]{0,63}")


class FederationError(RuntimeError):
    """The federation cannot go on; the message is one line that says why."""


class UnfitError(FederationError):
    """A node does not fit to a run whose facts are settled; the run goes on without it."""


@dataclass(frozen=True)
class Member:
    """One client, as it described itself.

    Attributes:
        name: its site's name; empty where it has none.
        here: whether it can be asked now.
        known: whether it ever described itself; until then it holds nothing.
        packs: what its node takes and sends as one (`fedwarm.flower.packing`); 0: nothing.
    """

    partition: int
    node: int
    examples: int
    tests: int
    present: tuple[int, ...]
    counts: tuple[int, ...] | None
    name: str = ""
    here: bool = True
    known: bool = True
    packs: int = 0

    @classmethod
    def unknown(cls, partition: int) -> Member:
        """A client of whom nothing is known but that it may come."""
        return cls(partition, 0, 0, 0, (), None, here=False, known=False)

    @property
    def label(self) -> str:
        """How it is called."""
        return called(self.partition, self.name)


@dataclass(frozen=True)
class Fleet:
    """All clients, `members[i]` being partition i, and the data set's facts on which they agree.

    Attributes:
        classes: names of the classes, or of what else a model answers.
        inputs: what one input looks like; a number: pictures of that side.
        steady: they are all here and stay; real nodes come and go.
    """

    members: tuple[Member, ...]
    classes: tuple[str, ...]
    inputs: Form | int
    steady: bool = True

    @property
    def form(self) -> Form:
        """What one input looks like."""
        return Form.at(self.inputs)

    @property
    def image_size(self) -> int:
        """Side of the pictures; 0 where inputs are none."""
        return self.form.side

    @property
    def here(self) -> tuple[int, ...]:
        """The partitions that can be asked now."""
        return tuple(m.partition for m in self.members if m.here)


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
    messages = [question(node) for node in nodes]
    answers: dict[int, Payload] = {}
    for reply in grid.send_and_receive(messages, timeout=timeout_seconds) if messages else []:
        if reply.has_error():
            asked = {m.metadata.message_id: m.metadata.dst_node_id for m in messages}
            node = asked.get(reply.metadata.reply_to_message_id, reply.metadata.src_node_id)
            kind = SettingError if is_unusable(reply) else FederationError
            raise kind(f"node {node} cannot take part: {reason(reply)}")
        answers[reply.metadata.src_node_id] = from_records(reply.content)
    return answers


def question(node: int) -> Message:
    """The message that asks a node who it is."""
    return Message(content=to_records(Payload()), message_type=MessageType.QUERY, dst_node_id=node)


def _fleet(known: dict[int, Payload], expected: int) -> Fleet:
    partitions = sorted(p.count("partition", 0, CLIENTS_AT_MOST) for p in known.values())
    if len(partitions) != expected or partitions != list(range(expected)):
        raise FederationError(f"partitions {partitions[:20]} are not 0 to {expected - 1}; give each node its own partition-id")
    by_partition = {p.count("partition"): node for node, p in known.items()}
    classes, form = agreed([known[by_partition[i]] for i in range(expected)])
    members = tuple(member_of(i, by_partition[i], known[by_partition[i]], classes) for i in range(expected))
    return Fleet(members, classes, form)


def agreed(answers: Sequence[Payload], own: bool = False, known: Sequence[str] = ()) -> tuple[tuple[str, ...], Form]:
    """The classes and the form of inputs of which all nodes speak.

    Args:
        answers: how they describe themselves.
        own: each brings its own data, so that the classes are the union of theirs.
        known: the classes in that case, where they are settled already.

    Raises:
        FederationError: they speak of different ones, or of a single class.
        PayloadError: one says something of its inputs that cannot be.
    """
    first, lists = answers[0], [tuple(_list(answer, "classes", str)) for answer in answers]
    if not own and any(each != lists[0] for each in lists):
        raise FederationError("the nodes disagree on the classes of the data set; give all of them the same data.name")
    if any(p.metrics.get("image-size") != first.metrics.get("image-size") for p in answers):
        raise FederationError("the nodes disagree on the size of images; give all of them the same data.image-size")
    form = form_of(first)
    if other := next((told for each in answers if (told := form_of(each)) != form), None):
        odd = sorted({*form.columns} ^ {*other.columns})
        what = f"column {short(odd[0])} is not in all tables" if odd else f"{form} and {other}"
        raise FederationError(
            f"the nodes disagree on their inputs: {what}; give all the same columns, or name them in data.feature-columns"
        )
    if any("answers" in answer.facts for answer in answers) and any(each != lists[0] for each in lists):
        raise FederationError(
            f"the nodes disagree on what is to be answered, {_odd(lists)}; name the column in data.label-column"
        )
    classes = tuple(known) or (lists[0] if all(each == lists[0] for each in lists) else union(lists))
    if own and len(classes) < FEWEST and not any("answers" in answer.facts for answer in answers):
        raise FederationError(
            f"all nodes' images are of one class, {shown(classes)!r}, so that every accuracy would be 100 %; bring others, or "
            "name all classes of the run in data.classes"
        )
    return classes, form


def _odd(lists: Sequence[tuple[str, ...]]) -> str:
    """Two lists that differ."""
    return f"{shown(lists[0])} and {shown(next(each for each in lists if each != lists[0]))}"


def described(form: Form) -> tuple[dict[str, int | float], dict[str, Fact]]:
    """Metrics and facts by which a client tells what its inputs look like; of pictures their side alone."""
    if form.pictures:
        return {"image-size": form.side}, {}
    return {"vocabulary": form.vocabulary}, {"shape": list(form.shape), "dtype": form.dtype, "columns": list(form.columns)}


def form_of(answer: Payload) -> Form:
    """What `described` told.

    Raises:
        PayloadError: it is nothing that inputs can be.
    """
    if "dtype" not in answer.facts:
        return Form.picture(answer.count("image-size", 1))
    shape, dtype = _list(answer, "shape", int), answer.text("dtype")
    if dtype not in DTYPES or len(shape) > AXES_AT_MOST or min(shape, default=1) < 1:
        raise PayloadError(f"inputs of shape {shape} and dtype {dtype!r} cannot be")
    return Form(tuple(shape), dtype, answer.count("vocabulary"), tuple(_list(answer, "columns", str)))


def member_of(partition: int, node: int, answer: Payload, classes: Sequence[str], name: str = "") -> Member:
    """A client out of its description; what it says by its own list of classes is told by the run's.

    Raises:
        PayloadError: it holds something that cannot be.
        UnfitError: it has a class that the run does not.
    """
    own = _list(answer, "classes", str)
    counts = tuple(_list(answer, "counts", int)) if "counts" in answer.facts else None
    present = tuple(_list(answer, "present", int))
    if not all(0 <= c < len(own) for c in present):
        raise PayloadError(f"'present' of client {partition} must hold numbers of classes, 0 to {len(own) - 1}")
    if counts is not None and (len(counts) != len(own) or min(counts) < 0):
        raise PayloadError(f"'counts' of client {partition} must hold one number of images for each of {len(own)} classes")
    if own != list(classes):
        present, counts = _renumbered(own, classes, present, counts)
    name = name or clean(answer.facts.get("site", ""))
    packs = answer.facts.get(SIGN, 0)
    level = packs if isinstance(packs, int) else 0
    return Member(partition, node, answer.count("num-examples"), answer.count("num-test"), present, counts, name, packs=level)


def _renumbered(
    own: Sequence[str], classes: Sequence[str], present: tuple[int, ...], counts: tuple[int, ...] | None
) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Classes that a client has, and its images of each, by the run's list instead of its own."""
    codes = places(own, classes)
    if strange := [name for name, code in zip(own, codes, strict=True) if code < 0]:
        raise UnfitError(
            f"it holds images of {shown(strange)}, and the run's classes are {shown(classes)}; take them out there, or begin a "
            "new run with it or with all names in data.classes"
        )
    held = tuple(sorted(codes[c] for c in present))
    if counts is None:
        return held, None
    told = dict(zip(codes, counts, strict=True))
    return held, tuple(told.get(c, 0) for c in range(len(classes)))


def check_names(answer: Payload) -> None:
    """Refuse names of classes that could not stand in logs and pages, or of which two are one.

    Raises:
        PayloadError: there are some.
    """
    names = _list(answer, "classes", str)
    if len(names) > CLASSES_AT_MOST or not all(0 < len(name) <= NAME_AT_MOST and name.isprintable() for name in names):
        raise PayloadError(f"'classes' must be at most {CLASSES_AT_MOST:,} names of 1 to {NAME_AT_MOST} characters that print")
    if len({*map(plain, names)}) < len(names):
        raise PayloadError("'classes' must name each class once")


def clean(name: object) -> str:
    """A site's name as it may stand in logs and pages; empty where it is none."""
    return name if isinstance(name, str) and NAME.fullmatch(name) else ""


def _list(payload: Payload, name: str, kind: type[T]) -> list[T]:
    value = payload.facts.get(name, [])
    if not isinstance(value, list) or not all(type(v) is kind for v in value):
        raise PayloadError(f"{name!r} must be a list of {kind.__name__}")
    return [v for v in value if isinstance(v, kind)]

"""The clients of real nodes: looked up at each stage, since machines are switched off, hang and come back.

A client is its partition; a node that comes back under another id is known by what it says of itself. That is asked for when it
turns up, after it was away, and when it let a stage's time go by.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from flwr.app import Message
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from fedwarm.core.nodes import Nodes, Patience, bound, half
from fedwarm.core.payload import PayloadError
from fedwarm.core.refusals import reason_of
from fedwarm.data.classes import listed
from fedwarm.data.settings import Data
from fedwarm.flower.wire import from_records, is_unusable
from fedwarm.rounds import waiting
from fedwarm.rounds.arrivals import pulled
from fedwarm.rounds.attendance import Attendance, on_real_nodes
from fedwarm.rounds.bindings import Bindings, NotAdmitted
from fedwarm.rounds.fleet import FederationError, Fleet, UnfitError, clean, meet, question
from fedwarm.rounds.home import check_own
from fedwarm.rounds.reasons import reason
from fedwarm.rounds.register import Register, ordered, several
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError

ASK_SECONDS = 60.0
CLIENT = re.compile(r"client (\d{1,6}): (.*)", re.DOTALL)
NOT_HERE_YET = (ErrorCode.NODE_UNAVAILABLE, ErrorCode.CLIENT_APP_CRASHED, ErrorCode.MESSAGE_UNAVAILABLE)


def attend(grid: Grid, config: Config, before: Mapping[str, Any] | None = None) -> Attendance:
    """Meet the clients of a run.

    Args:
        grid: Flower's.
        config: the run's settings.
        before: what the checkpoint of the run that is resumed tells, its clients that come and go among it.

    Raises:
        SettingError: a node cannot use the settings or its data; of real nodes, none can.
        FederationError: too few are there, or they do not fit together.
    """
    check_own(config)
    if not on_real_nodes(grid):
        return Attendance(meet(grid, Patience.of(config.run, real=False).seconds()))
    nodes, own, told = config.of(Nodes), config.of(Data).own, before or {}
    settled = tuple(told.get("classes", ())) or (listed(config.of(Data).classes) if own else ())
    bindings = Bindings(bound(nodes), told.get("bindings", {}))
    register = Register(told.get("members", ()), bindings, own, settled)
    roll = RollCall(grid, replace(nodes, least=nodes.least or config.run.min_replies), register)
    roll.gather()
    return roll


class RollCall(Attendance):
    """Who is there of them.

    Args:
        grid: Flower's.
        settings: how long is waited for whom.
        register: which node is which client, whose partition is whose, and what an earlier part of the run knew of them.
    """

    real = True

    def __init__(self, grid: Grid, settings: Nodes, register: Register) -> None:
        self.grid, self.settings, self.register = grid, settings, register
        self.remarks: list[str] = []
        self.refusals: dict[int, tuple[str, str]] = {}
        self.stamps: dict[int, object] = {}  # nodes that are there: when they came
        self.names: dict[int, str] = {}  # under which nodes are registered; no node chooses its own
        self.questions: dict[str, tuple[int, float]] = {}  # by message: the node asked, and until when it is waited for
        self.asked: set[int] = set()  # nodes that were asked before and never left: nobody waits for them again
        self.failed: dict[int, str] = {}
        self.barred: set[int] = set()  # of those, who claim what is another's
        self.unusable: set[int] = set()  # of those, who cannot use the settings or their data
        self.unfit: set[int] = set()  # of those, whose versions or classes are not the run's
        self.gone: dict[int, float] = {}  # by partition: until when it is waited for

    @property
    def fleet(self) -> Fleet:  # type: ignore[override]
        """All clients, as they are known now."""
        return self.register.fleet

    def gather(self) -> None:
        """Wait until all partitions are there; at the end of the time go on with those that are, if they are enough.

        Raises:
            SettingError: no node can use the settings or its data.
            FederationError: too few are there, or they do not fit together.
        """
        begun = waiting.now()
        self._wait(self._complete, begun + self.settings.gather_timeout)
        holders, missing = self.register.holders(), self.register.missing()
        if len(holders) < max(1, self._least()):
            needed = f", {self._least()} are needed (nodes.least)" if holders else ""
            raise FederationError(f"{self._shortage()} within {waiting.now() - begun:.0f} s (nodes.gather-timeout){needed}")
        self.register.open()
        waiting.say(f"{several(map(self.register.label, holders))}: {len(holders)} of {self.register.size} clients are here")
        for partition in holders:
            self._note_rivals(partition)
        if missing:
            self._remark(f"the run began without {several(map(self.register.label, missing))}")

    def look(self) -> None:
        self.failed.clear()
        self._wait(lambda: not self._pending(), waiting.now() + self.settings.return_timeout + ASK_SECONDS)
        if not self._enough():
            self._wait(self._enough, waiting.now() + self.settings.gather_timeout)
        if not self._enough():
            raise FederationError(
                f"{self._shortage()} for {self.settings.gather_timeout:g} s, {self._least()} are needed (nodes.least); "
                "the checkpoint is kept; continue with resume=true"
            )

    def returned(self, client: int) -> bool:
        self._wait(lambda: client in self.fleet.here, self.gone.get(client, 0.0))
        return client in self.fleet.here

    def lost(self, client: int, node: int) -> None:
        self.gone[client] = waiting.now() + self.settings.return_timeout
        self.asked.discard(node)
        self._drop(node)

    def silent(self, client: int, node: int) -> None:
        self._drop(node)

    def heard(self, client: int, node: int) -> None:
        if self.register.holders().get(client) == node:
            self._note_rivals(client)

    def arrived(self) -> dict[int, object]:
        return _stamps(self._listed())

    def bindings(self) -> dict[str, int]:
        return dict(self.register.bindings.partitions)

    # Who is there

    def glance(self) -> None:
        """See which nodes are there, ask those who they are that have not said it, and take in what they answer."""
        stamps = _stamps(listed := self._listed())
        for node in [n for n, stamp in self.stamps.items() if n not in stamps or stamps[n] != stamp]:
            self._forget(node)
        self.stamps = stamps
        self.names.update({node: name for node, info in listed.items() if (name := str(getattr(info, "name", "") or ""))})
        waited = {node for node, _ in self.questions.values()}
        self._ask([n for n in ordered(listed) if n not in waited | self.failed.keys() and not self.register.claimed(n)])
        answers = dict(self._answers([*self.questions])) if self.questions else {}
        for node in [n for n in ordered(listed) if n in answers]:
            self._answered(node, answers[node])
        self._settle()

    def _answers(self, asked: list[str]) -> Iterator[tuple[int, Message]]:
        """The answers that are there, pulled at once, or each by itself where one cannot be read, so that it costs no other."""
        try:
            for reply in pulled(self.grid, asked):
                yield self.questions.pop(reply.metadata.reply_to_message_id, (0, 0.0))[0], reply
        except PayloadError as error:
            if len(asked) == 1:
                self._refuse(self.questions.pop(asked[0])[0], str(error))
            else:
                for each in asked:
                    yield from self._answers([each])

    def _listed(self) -> dict[int, Any]:
        """What Flower knows of the nodes that are there."""
        told = getattr(self.grid, "get_nodes", None)
        return {info.node_id: info for info in told()} if told else dict.fromkeys(self.grid.get_node_ids())

    def _ask(self, nodes: list[int]) -> None:
        if not nodes:
            return
        until = waiting.now() + ASK_SECONDS
        ids = self.grid.push_messages([question(node) for node in nodes])
        self.questions.update({i: (n, 0.0 if n in self.asked else until) for i, n in zip(ids, nodes, strict=False) if i})
        self.asked.update(nodes)

    def _answered(self, node: int, reply: Message) -> None:
        self.barred.discard(node)
        if reply.has_error():
            if reply.error.code not in NOT_HERE_YET:
                self.unusable.update({node} if is_unusable(reply) else ())
                self._refuse(node, reason(reply))
            return
        try:
            self.register.take(node, from_records(reply.content), self.names.get(node, ""))
        except PayloadError as error:
            self._refuse(node, f"it described itself wrongly: {error}")
        except NotAdmitted as error:
            self.barred.add(node)
            self._refuse(node, str(error))
        except FederationError as error:
            if self.register.facts is None and not isinstance(error, UnfitError):
                raise
            self.unfit.update({node} if isinstance(error, UnfitError) else ())
            self._refuse(node, str(error))

    def _settle(self) -> None:
        for member in self.register.settle():
            waiting.say(f"{member.label} is {'here' if member.here else 'away'}")

    def _drop(self, node: int) -> None:
        self.register.drop(node)
        self._settle()

    def _forget(self, node: int) -> None:
        """A node went away, or away and back: what it said counts no longer, and what it was asked is not answered."""
        for partition in self.register.claimed(node):
            if self.register.holders()[partition] == node:
                self.gone[partition] = waiting.now() + self.settings.return_timeout
        self.questions = {message: asked for message, asked in self.questions.items() if asked[0] != node}
        self.failed.pop(node, None)
        self.asked.discard(node)
        self._drop(node)

    # Waiting

    def _wait(self, done: Callable[[], bool], until: float) -> None:
        """Glance until `done`, or until the time is over; a line now and then says whom it is waited for."""
        begun = told = waiting.now()
        while True:
            self.glance()
            now = waiting.now()
            if done() or now >= until:
                return
            if now - told >= waiting.LINE_SECONDS:
                told = now
                waiting.say(f"waiting for {self._awaited()} since {now - begun:.0f} s, {until - now:.0f} s are left")
                self.failed.clear()
            waiting.sleep(max(0.0, min(waiting.POLL_SECONDS, until - now)))

    def _complete(self) -> bool:
        failed = {node: why for node, why in self.failed.items() if node not in self.barred}
        if failed and not self.register.holders() and not self.questions:
            node, why = next(iter(failed.items()))
            raise (SettingError if node in self.unusable else FederationError)(f"{self._node(node)} cannot take part: {why}")
        size, expected = self.register.size, self.settings.expected
        final = (self.unusable | self.unfit) & failed.keys()  # waiting does not change what they said
        answered = len(self.register.holders()) + (len(final) if expected else 0)
        return bool(size) and answered >= min(expected or size, size)

    def _pending(self) -> bool:
        """Whether a node that just turned up is about to say who it is, or a lost client may still be back."""
        now, holders = waiting.now(), self.register.holders()
        lost = any(now < until for partition, until in self.gone.items() if partition not in holders)
        return lost or any(now < until for _, until in self.questions.values())

    def _enough(self) -> bool:
        return len(self.fleet.here) >= self._least()

    def _least(self) -> int:
        size = self.register.size
        return min(self.settings.least or half(self.settings.expected or size), size)

    # Words

    def _awaited(self) -> str:
        unsaid = [f"an answer of {self._node(node)}" for node, _ in self.questions.values()]
        failed = [f"{self._node(node)}, which cannot take part ({why})" for node, why in self.failed.items()]
        return several([*map(self.register.label, self.register.missing()), *unsaid, *failed]) or "nodes"

    def _shortage(self) -> str:
        missing, why = self.register.missing(), [f"{self._node(n)} cannot take part: {text}" for n, text in self.failed.items()]
        here = f"{len(self.register.holders())} of {self.register.size} clients are here" if missing else "no node said who it is"
        without = f", without {several(map(self.register.label, missing))}" if missing else ""
        return "; ".join([here + without, *why])

    def _node(self, node: int) -> str:
        name = clean(self.names.get(node, ""))
        return f"node {node}" + (f" ({name})" if name else "")

    def _refuse(self, node: int, why: str) -> None:
        self.failed[node] = why
        if reason_of(why) and (said := CLIENT.match(why)):
            self.refusals[int(said[1])] = (clean(self.names.get(node, "")), said[2])
        self._remark(f"{self._node(node)} cannot take part: {why}")

    def _note_rivals(self, partition: int) -> None:
        for node in self.register.rivals(partition):
            held = self.register.label(partition)
            self._remark(f"{self._node(node)} claims the part of {held}, whose node is here; it is not asked")

    def _remark(self, text: str) -> None:
        if text not in self.remarks:
            self.remarks.append(text)
            waiting.say(text)


def _stamps(listed: dict[int, Any]) -> dict[int, object]:
    return {node: getattr(info, "last_activated_at", None) for node, info in listed.items()}

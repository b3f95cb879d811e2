"""A SuperNode's loop after a message that nobody answers: Flower's loop, state and handlers, a played SuperLink and process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message as bare
from flwr.common.constant import ErrorCode, Status, SubStatus
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PushObjectRequest
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PushAppMessagesRequest
from flwr.supercore.date import now
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore
from flwr.supercore.run import Run, RunNotRunningException
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode import start_client_internal as loop
from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState
from flwr.supernode.servicer.runtime import runtime_handlers as handlers

from fedwarm.node import leftover

NODE = 7


class Node:
    """A SuperNode whose SuperLink sends `messages`, and whose processes do what `process` does as soon as they are asked for."""

    def __init__(self) -> None:
        self.store = InMemoryObjectStore()
        self.state: Any = InMemoryNodeState(self.store)
        self.state.set_node_id(NODE)
        self.waiting: list[Message] = []
        self.sent: list[Message] = []
        self.over: set[int] = set()
        self.pause: Callable[[], None] = lambda: None

    def asks(self, run: int, word: str) -> Message:
        """A message of a run is on its way."""
        self.state.store_run(Run.create_empty(run))
        message = Message(RecordDict({"said": ConfigRecord({"word": word})}), dst_node_id=NODE, message_type="query")
        vars(message.metadata).update(_run_id=run)
        vars(message.metadata).update(_message_id=message.object_id)
        self.waiting.append(message)
        return message

    def take_in(self, meanwhile: Callable[[], None] = lambda: None) -> int | None:
        """The first half of the loop; `meanwhile` happens when all of the message is there."""
        message = self.waiting.pop(0) if self.waiting else None
        parts = {key: each.deflate() for key, each in get_all_nested_objects(message).items()} if message else {}

        def confirm(run: int, _: str) -> None:
            meanwhile()
            if run in self.over:
                raise RunNotRunningException

        given: Any = {
            "receive": lambda: None if message is None else (bare(message), get_object_tree(message)),
            "get_run": None, "get_fab": None, "node_config": {}, "trusted_entities": None,
            "pull_object": lambda run, key: parts[key],
            "confirm_message_received": confirm,
        }  # fmt: skip
        return loop._pull_and_store_message(state=self.state, object_store=self.store, **given)

    def send(self) -> None:
        """The second half."""

        def send(message: Message, tree: Any, seconds: float) -> tuple[set[str], str]:
            self.sent.append(message)
            return {tree.object_id}, "session"

        loop._push_messages(state=self.state, object_store=self.store, send=send, push_object=lambda *given: None)

    def process(self, until: str = "") -> None:
        """A process that answers what waits by its own word, or fails before or as it reads, or before it hands all over."""
        task = self.state.get_tasks(statuses=[Status.PENDING], order_by="pending_at")[0]
        token = self.state.claim_task(task.task_id)
        assert token and self.state.activate_task(task.task_id)
        if until != "reading":
            (asked,) = handlers.pull_messages(PullAppMessagesRequest(), self.state, task).messages_list
            if until == "in reading":
                self.state.task_token_store[task.task_id].active_until = now()
                return
            confirmed = ConfirmMessageReceivedRequest(message_object_id=asked.metadata.message_id)
            handlers.confirm_message_received(confirmed, self.state, task)
            reply = Message(
                RecordDict({"said": ConfigRecord({"to": asked.metadata.message_id})}), reply_to=message_from_proto(asked)
            )
            vars(reply.metadata).update(_message_id=reply.object_id)
            tree = get_object_tree(reply)
            pushed = handlers.push_messages(
                PushAppMessagesRequest(messages_list=[message_to_proto(bare(reply))], message_object_trees=[tree]),
                self.state,
                task,
            )
            self.pause()
            for key, each in get_all_nested_objects(reply).items() if until != "handing over" else ():
                assert handlers.push_object(
                    PushObjectRequest(object_id=key, object_content=each.deflate(), session_id=pushed.session_id),
                    self.state,
                    task,
                ).stored
        self.state.finish_task(task.task_id, SubStatus.FAILED if until else SubStatus.COMPLETED, until)


def tell(message: Message) -> str:
    """Which message is answered, or why not."""
    return str(message.error.reason) if message.has_error() else message.metadata.reply_to_message_id


@pytest.fixture
def node() -> Iterator[Node]:
    with pytest.MonkeyPatch.context() as patch:
        for name in (leftover.TAKE_IN, leftover.SEND):
            patch.setattr(loop, name, getattr(loop, name))
        patch.setattr(handlers, "pull_messages", handlers.pull_messages)
        for name in ("_task_id", "_run_id", "_node_id"):  # whose messages are made here: the server's
            patch.setattr(TaskIdentity, name, 1)
        assert leftover.install()
        yield Node()


def test_messages_are_answered_in_turn(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    work = iter([lambda: None, node.process])
    monkeypatch.setattr(time, "sleep", lambda seconds: next(work)())
    asked = [node.asks(1, "a"), node.asks(1, "b")]
    assert node.take_in() == 1
    node.send()  # waits for its process
    assert node.take_in() == 1
    node.process()
    node.send()
    assert node.take_in() is None
    assert [tell(reply) for reply in node.sent] == [message.metadata.message_id for message in asked]
    assert not node.state.msg_store and not len(node.store)


def test_a_reply_is_sent_when_all_of_it_is_there(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, goes_on = threading.Event(), threading.Event()
    process = threading.Thread(target=node.process)

    def pauses() -> None:
        begun.set()
        goes_on.wait(60)

    def waits(seconds: float) -> None:
        goes_on.set()
        process.join(60)

    node.pause = pauses
    monkeypatch.setattr(time, "sleep", waits)
    asked = node.asks(1, "a")
    assert node.take_in() == 1
    process.start()
    assert begun.wait(60)
    node.send()
    assert goes_on.is_set() and [tell(reply) for reply in node.sent] == [asked.metadata.message_id]


@pytest.mark.parametrize("when", ["meanwhile", "never"])
def test_a_run_that_ends_while_its_message_is_taken_in_leaves_nothing_behind(when: str, node: Node) -> None:
    """Its process would answer (it was the next message's reply), or wait for objects that never come."""

    def meanwhile() -> None:
        node.over.add(1)
        if when == "meanwhile":
            node.process()

    node.asks(1, "a")
    assert node.take_in(meanwhile) is None
    assert not node.state.msg_store and not len(node.store)
    assert not node.state.get_tasks(statuses=leftover.OPEN)
    later = node.asks(2, "b")
    assert node.take_in() == 2
    node.process()
    node.send()
    assert [tell(reply) for reply in node.sent] == [later.metadata.message_id]


@pytest.mark.parametrize("until", ["reading", "handing over"])
def test_a_process_that_ends_without_a_reply_keeps_no_node(until: str, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def waits(seconds: float) -> None:
        raise AssertionError("it waits for what nobody gives")

    monkeypatch.setattr(time, "sleep", waits)
    node.asks(1, "a")
    assert node.take_in() == 1
    node.process(until)
    node.send()
    later = node.asks(1, "b")
    assert node.take_in() == 1
    node.process()
    node.send()
    assert tell(node.sent[-1]) == later.metadata.message_id and len(node.sent) == 2
    assert node.sent[0].error.code == ErrorCode.CLIENT_APP_CRASHED and tell(node.sent[0]) == leftover.UNANSWERED
    assert not node.state.msg_store and not len(node.store)


def test_a_process_may_ask_for_its_message_again_until_it_has_all_of_it(node: Node) -> None:
    asked = node.asks(1, "a").metadata.message_id
    assert node.take_in() == 1
    (task,) = node.state.get_tasks()
    for _ in range(2):
        (told,) = handlers.pull_messages(PullAppMessagesRequest(), node.state, task).messages_list
        assert told.metadata.message_id == asked
    handlers.confirm_message_received(ConfirmMessageReceivedRequest(message_object_id=asked), node.state, task)
    assert not handlers.pull_messages(PullAppMessagesRequest(), node.state, task).messages_list


def test_a_process_that_was_killed_as_it_read_leaves_no_model_behind(node: Node) -> None:
    """Flower leaves its message's objects where they are: the memory of a model for each process that ran out of it."""
    node.asks(1, "a")
    assert node.take_in() == 1
    node.process("in reading")
    node.send()
    assert node.sent[0].error.code == ErrorCode.CLIENT_APP_CRASHED
    assert not node.state.msg_store and not len(node.store)


def test_a_reply_that_is_dropped_while_it_is_handed_over_gives_an_error(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower drops one of which no part came for three minutes, and its process fails."""

    def drops() -> None:
        for session in node.state._object_push_sessions.values():
            session.expires_at = now()

    def waits(seconds: float) -> None:
        (task,) = node.state.get_tasks(statuses=[Status.RUNNING])
        node.state.finish_task(task.task_id, SubStatus.FAILED, "")

    node.pause = drops
    monkeypatch.setattr(time, "sleep", waits)
    node.asks(1, "a")
    assert node.take_in() == 1
    with pytest.raises(AssertionError):
        node.process()
    node.send()
    assert [tell(reply) for reply in node.sent] == [leftover.UNANSWERED]
    assert not node.state.msg_store and not len(node.store)


def test_another_make_of_flower_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftover, "LOOP", "elsewhere")
    assert not leftover.install()
    monkeypatch.setattr(leftover, "import_module", lambda name: ModuleType(name))
    assert not leftover.install()


def test_it_is_put_in_once(node: Node) -> None:
    first = loop._push_messages
    assert leftover.install() and loop._push_messages is first

"""What a SuperLink answers who asks again: Flower's own database, state and handlers, changed by fedwarm."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message as bare
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode, SubStatus
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto import fleet_pb2, message_pb2, runtime_pb2
from flwr.proto.node_pb2 import Node
from flwr.server.superlink.linkstate import LinkStateFactory
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.servicer.fleet import fleet_handlers as fleet
from flwr.superlink.servicer.runtime import runtime_handlers as runtime

from fedwarm.flower import unheard

pytestmark = pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning:alembic")
CHANGED: dict[Any, list[str]] = {
    SqlLinkState: ["get_message_ins", "get_message_res"],
    runtime: ["pull_messages", "confirm_message_received"],
}


class Link:
    """A SuperLink with a node and a run that goes on, without its wire."""

    def __init__(self, state: Any, patch: pytest.MonkeyPatch) -> None:
        self.state = state
        self.node = self.state.create_node("", "", secrets.token_bytes(8), 30.0)
        self.state.activate_node(self.node, 30.0)
        self.run = self.state.create_run("app", "1", "hash", {}, NOOP_FEDERATION_ID, None, "", TaskType.SERVER_APP)
        (self.task,) = self.state.get_tasks(run_ids=[self.run])
        assert self.state.claim_task(self.task.task_id) and self.state.activate_task(self.task.task_id)
        for name, value in {"_task_id": self.task.task_id, "_run_id": self.run, "_node_id": SUPERLINK_NODE_ID}.items():
            patch.setattr(TaskIdentity, name, value)

    def asks(self, word: str = "a") -> Message:
        """The ServerApp sends the node a message."""
        message = Message(RecordDict({"said": ConfigRecord({"word": word})}), dst_node_id=self.node, message_type="query")
        vars(message.metadata).update(_message_id=message.object_id)
        request: dict[str, Any] = {
            "messages_list": [message_to_proto(bare(message))],
            "message_object_trees": [get_object_tree(message)],
        }
        answer = runtime.push_messages(runtime_pb2.PushAppMessagesRequest(**request), self.state, self.task)
        self._push(message, answer)
        return message

    def _push(self, message: Message, answer: Any) -> None:
        for key, each in get_all_nested_objects(message).items():
            if key in answer.objects_to_push:
                assert self.state.store_object(self.run, answer.session_id, key, each.deflate())

    def next(self) -> str:
        """What the node hears when it asks for a message."""
        request = fleet_pb2.PullMessagesRequest(node=Node(node_id=self.node))
        told = fleet.pull_messages(request, self.state, self.state.object_store).messages_list
        return told[0].metadata.message_id if told else ""

    def has(self, message: str) -> None:
        """The node says that it has all of it."""
        request = message_pb2.ConfirmMessageReceivedRequest(run_id=self.run, message_object_id=message)
        fleet.confirm_message_received(request, self.state, self.state.object_store)

    def announces(self, reply: Message) -> Any:
        """The node tells of its reply; what it hears."""
        request: dict[str, Any] = {
            "messages_list": [message_to_proto(bare(reply))],
            "message_object_trees": [get_object_tree(reply)],
        }
        return fleet.push_messages(fleet_pb2.PushMessagesRequest(**request), self.state)

    def answers(self, message: Message) -> Message:
        """The node's whole reply to a message."""
        reply = self.reply(message)
        self._push(reply, self.announces(reply))
        return reply

    def reply(self, message: Message) -> Message:
        asked = message_from_proto(message_to_proto(message))
        reply = Message(RecordDict({"said": ConfigRecord({"to": message.metadata.message_id})}), reply_to=asked)
        vars(reply.metadata).update(_message_id=reply.object_id, _src_node_id=self.node)
        return reply

    def hears(self, message: Message) -> list[Message]:
        """What the ServerApp hears when it asks for the reply to a message."""
        request = runtime_pb2.PullAppMessagesRequest(message_ids=[message.metadata.message_id])
        return [message_from_proto(each) for each in runtime.pull_messages(request, self.state, self.task).messages_list]

    def held(self) -> set[str]:
        """The messages that the SuperLink knows of."""
        return set(self.state.get_message_ids_from_run_id(self.run))

    def got(self, reply: Message) -> None:
        """The ServerApp says that it has all of a reply."""
        request = message_pb2.ConfirmMessageReceivedRequest(message_object_id=reply.metadata.message_id)
        runtime.confirm_message_received(request, self.state, self.task)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A SuperLink's database."""
    place = str(tmp_path_factory.mktemp("link") / "state.db")
    return LinkStateFactory(place, NoOpFederationManager(), ObjectStoreFactory(place)).state()


@pytest.fixture
def link(state: Any) -> Iterator[Link]:
    with pytest.MonkeyPatch.context() as patch:
        for place, names in CHANGED.items():
            for name in names:
                patch.setattr(place, name, getattr(place, name))
        assert unheard.install() and unheard.install()
        yield Link(state, patch)


def test_a_message_is_given_again_until_its_node_has_all_of_it(link: Link) -> None:
    first, second = (link.asks(word).metadata.message_id for word in "ab")
    assert link.next() == first
    assert link.next() == second  # its answer was lost, and so was the one before
    assert {link.next() for _ in range(4)} == {first}
    link.has(first)
    assert link.next() == second
    link.has(second)
    assert not link.next()


def test_a_message_that_no_node_can_hold_is_not_given_for_ever(link: Link) -> None:
    message = link.asks().metadata.message_id
    assert [link.next() for _ in range(unheard.GIVEN_AT_MOST + 2)] == [message] * (unheard.GIVEN_AT_MOST + 1) + [""]


def test_a_message_goes_to_no_node_that_came_anew_nor_for_a_run_that_is_over(link: Link) -> None:
    """Of a node that came anew the server says that it was away, and asks again."""
    link.asks()
    assert link.next()
    link.state.deactivate_node(link.node)
    link.state.activate_node(link.node, 30.0)
    assert not link.next()
    link.asks("b")
    assert link.next()
    link.state.finish_task(link.task.task_id, SubStatus.FAILED, "")
    assert not link.next()


def test_a_reply_is_there_until_its_server_has_all_of_it(link: Link) -> None:
    message = link.asks()
    assert link.next() and not link.hears(message)
    link.has(message.metadata.message_id)
    reply = link.answers(message).metadata.message_id
    for _ in range(3):
        assert [each.metadata.message_id for each in link.hears(message)] == [reply]
    link.got(link.hears(message)[0])
    assert not link.held() and reply not in link.state.object_store and not link.next()
    assert link.hears(message)[0].error.code == ErrorCode.MESSAGE_UNAVAILABLE


def test_a_reply_that_is_there_counts_where_its_node_has_gone(link: Link) -> None:
    """The server takes replies in the order of the clients; a site may be off when its turn comes."""
    message, other = link.asks(), link.asks("b")
    reply = link.answers(message).metadata.message_id
    link.state.deactivate_node(link.node)
    assert [each.metadata.message_id for each in link.hears(message)] == [reply]
    (error,) = link.hears(other)
    assert error.error.code == ErrorCode.NODE_UNAVAILABLE and link.held() == {message.metadata.message_id}


def test_a_node_that_tells_of_its_reply_again_is_asked_for_it(link: Link) -> None:
    message = link.asks()
    link.has(link.next())
    reply = link.reply(message)
    wanted = set(link.announces(reply).objects_to_push)
    assert wanted and link.hears(message)  # the server waits for its parts from now on
    assert set(link.announces(reply).objects_to_push) == wanted


def test_a_reply_whose_parts_are_gone_is_not_waited_for(link: Link) -> None:
    message = link.asks()
    reply = link.answers(message)
    link.state.object_store.delete(reply.metadata.message_id)
    assert not link.hears(message)
    assert link.hears(message)[0].error.code == ErrorCode.MESSAGE_UNAVAILABLE


def test_another_make_of_flower_runs_as_it_is(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unheard, "HANDLERS", "elsewhere")
    assert not unheard.install()
    monkeypatch.setattr(unheard, "import_module", ModuleType)
    assert not unheard.install()

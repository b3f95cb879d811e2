"""Answers of Flower's SuperLink that never reached who asked: who asks again gets them again.

Where a connection breaks, or an answer takes longer than its asker waits, a request is sent again. The SuperLink has then done
what it asks for, and does it once:

* A message is given to its node once. Where that answer was lost, its node knows of no message, and the run waits for it in vain.
* A reply is struck off the list when its ServerApp hears of it, before it has it: what was lost is asked of the client again. A
  node that has not heard that its reply was taken note of, and tells of it again, hears then that nothing is wanted of it.

Here a message or a reply stays on the list until who gets it says that all of it is there. And a reply that is there is given to
its ServerApp, whose turn for it may come late, also where its node has gone by then.
"""

from __future__ import annotations

from collections import Counter
from functools import wraps
from importlib import import_module
from typing import Any

LINKSTATE, HANDLERS = "flwr.server.superlink.linkstate.sql_linkstate", "flwr.superlink.servicer.runtime.runtime_handlers"
GIVEN_AT_MOST = 10
"""How often a message is given again: a node that cannot hold it asks on."""


def install() -> bool:
    """Have a SuperLink answer again; whether this version of Flower has the places for it."""
    try:
        link, handlers = import_module(LINKSTATE), import_module(HANDLERS)
        kind, lists = link.SqlLinkState, Lists(link)
        if not hasattr(kind.get_message_ins, "__wrapped__"):
            pull, confirm = lists.keeping(handlers.pull_messages), lists.confirming(handlers.confirm_message_received)
            kind.get_message_ins, kind.get_message_res = (
                lists.to_nodes(kind.get_message_ins),
                lists.to_server(kind.get_message_res),
            )
            vars(handlers).update(pull_messages=pull, confirm_message_received=confirm)
    except (ImportError, AttributeError):
        return False
    return True


class Lists:
    """A SuperLink's lists of messages to nodes and of replies.

    Args:
        link: the module of Flower's that keeps them in a database.
    """

    def __init__(self, link: Any) -> None:
        self.link, self.message, self.reply, self.node = link, link.MessageInsModel, link.MessageResModel, link.NodeModel
        self.given: Counter[str] = Counter()

    def to_nodes(self, get: Any) -> Any:
        """Flower's way to give a node its next message, which goes back to what it gave and the node never had."""

        @wraps(get)
        def get_message_ins(state: Any, node_id: int, limit: int | None, **more: Any) -> Any:
            found = get(state, node_id, limit, **more)
            if found or node_id == self.link.SUPERLINK_NODE_ID or (lost := self._lost(state, node_id)) is None:
                return found
            self.given[lost] += 1
            with state.session() as session:
                session.execute(self.link.update(self.message).where(self.message.message_id == lost).values(delivered_at=""))
            return get(state, node_id, limit, **more)

        return get_message_ins

    def _lost(self, state: Any, node_id: int) -> str | None:
        """A message that a node got since it came, and has neither all of nor answered: it asks for the next when it has."""
        message, node = self.message, self.node
        own = self.link.uint64_to_int64(node_id)
        came = self.link.select(node.last_activated_at).where(node.node_id == own).scalar_subquery()
        given = (
            self.link.select(message.message_id, message.run_id)
            .where(message.dst_node_id == own, message.delivered_at != "", message.delivered_at >= came)
            .where(message.created_at + message.ttl > self.link.now().timestamp())
            .where(message.message_id.not_in(self.link.select(self.reply.reply_to_message_id)))
            .order_by(message.created_at)
        )
        with state.session() as session:
            for message_id, stored in session.execute(given).all():
                run = self.link.int64_to_uint64(stored)
                unheard = message_id in state.object_store and self.given[message_id] < GIVEN_AT_MOST
                if unheard and state.get_run_status({run})[run].status == self.link.Status.RUNNING:
                    return str(message_id)
        return None

    def to_server(self, get: Any) -> Any:
        """Flower's way to give a ServerApp its replies: one that is there, however often it is asked for."""

        @wraps(get)
        def get_message_res(state: Any, message_ids: set[str], run_id: int) -> Any:
            found = self._replies(state, message_ids, run_id)
            return [*found, *get(state, message_ids - {each.metadata.reply_to_message_id for each in found}, run_id)]

        return get_message_res

    def _replies(self, state: Any, message_ids: set[str], run_id: int) -> list[Any]:
        reply = self.reply
        there = self.link.select(reply).where(
            reply.reply_to_message_id.in_(message_ids),
            reply.run_id == self.link.uint64_to_int64(run_id),
            reply.created_at + reply.ttl > self.link.now().timestamp(),
        )
        with state.session() as session:
            rows = [self.link._message_model_to_dict(model) for model in session.scalars(there)]
        for row in rows:
            self.link.convert_sint64_values_in_dict_to_uint64(row, ["run_id", "src_node_id", "dst_node_id"])
        return [self.link.dict_to_message(row) for row in rows]

    def confirming(self, confirm: Any) -> Any:
        """Flower's answer to a ServerApp that has a reply whole, which strikes it off."""

        @wraps(confirm)
        def confirm_message_received(request: Any, state: Any, task: Any) -> Any:
            asked = self.link.select(self.reply.reply_to_message_id).where(self.reply.message_id == request.message_object_id)
            with state.session() as session:
                state.delete_messages(set(session.scalars(asked)))
            return confirm(request, state, task)

        return confirm_message_received

    def keeping(self, pull: Any) -> Any:
        """Flower's answer to a ServerApp that asks for replies, which strikes off none that is there."""

        @wraps(pull)
        def pull_messages(request: Any, state: Any, task: Any) -> Any:
            return pull(request, _Kept(state, self.link.SUPERLINK_NODE_ID), task)

        return pull_messages


class _Kept:
    """A SuperLink's state that deletes no message whose reply, not one of the SuperLink's `own`, it has just given."""

    def __init__(self, state: Any, own: int) -> None:
        self.state, self.own, self.there = state, own, set[str]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.state, name)

    def get_message_res(self, message_ids: set[str], run_id: int) -> Any:
        found = self.state.get_message_res(message_ids=message_ids, run_id=run_id)
        told = [each.metadata for each in found if each.metadata.src_node_id != self.own]
        self.there.update(each.reply_to_message_id for each in told if each.message_id in self.state.object_store)
        return found

    def delete_messages(self, message_ins_ids: set[str]) -> None:
        self.state.delete_messages(message_ins_ids - self.there)

"""Messages that a SuperNode took in and that are never answered.

Flower's loop takes a message in, waits until there is a reply, and sends it. After three things it is of no more use:

* A run ends, or is stopped, while the loop takes a message of it in. The loop goes on, but the message's task stays: a process is
  started for it, and where all of the message is there it is answered. That reply is then sent in place of the next message's,
  whose own reply stays until the message after: the node is one reply behind for good, and every stage waits for it in vain.
* A process ends before it has read its message. Its task has failed, but only who has read a message gets an error in its place:
  the loop waits for ever. The same where it ends while it hands its reply over.
* A process that had no answer in 30 s, as the machine is busy, asks for its message again, and hears of none: it was given.

Here what belongs to a message goes with it, a task that has ended without a reply gives an error, and a message is given until
its process has all of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import wraps
from importlib import import_module
from typing import Any

from flwr.app import Error, Message
from flwr.common.constant import ErrorCode, Status, SubStatus
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.object_store import NoObjectInStoreError

from fedwarm.node.pace import LOOP

HANDLERS = "flwr.supernode.servicer.runtime.runtime_handlers"
TAKE_IN, SEND, INSERT = "_pull_and_store_message", "_push_messages", "_insert_message"
OPEN = (Status.PENDING, Status.STARTING, Status.RUNNING)
PART_SECONDS = 0.02
FORGOTTEN, UNANSWERED = "its run has ended", "the process that was to answer this message ended before it did"


class Answering:
    """Stands for the two halves of Flower's loop.

    Args:
        take_in: Flower's `_pull_and_store_message`: the run of a message that was taken in, None where there is none to answer.
        send: Flower's `_push_messages`: waits until there is a reply, and sends it.
        insert: Flower's `_insert_message`.
    """

    def __init__(self, take_in: Callable[..., int | None], send: Callable[..., None], insert: Callable[..., None]) -> None:
        self._take_in, self._send, self._insert = take_in, send, insert
        self._message: Message | None = None
        self._tasks: set[int] = set()

    def take_in(self, *, state: Any, object_store: Any, receive: Callable[[], Any], **more: Any) -> int | None:
        """As Flower's; a message that is not to be answered leaves nothing behind."""
        before: set[int] = set()
        self._message = None

        def received() -> Any:
            if (found := receive()) is not None:
                self._message = found[0]
                before.update(_open(state))
            return found

        run = self._take_in(state=state, object_store=object_store, receive=received, **more)
        if self._message is not None:
            self._tasks = _open(state) - before
            if run is None:
                self._forget(state, object_store, self._message.metadata.message_id)
        return run

    def send(self, *, state: Any, object_store: Any, **more: Any) -> None:
        """As Flower's, but it does not wait for what no process is left to give."""
        self._send(state=_Replies(self, state, object_store), object_store=object_store, **more)
        if self._message is not None:
            object_store.delete(self._message.metadata.message_id)  # unless its process has read all of it

    def ended(self, state: Any) -> bool:
        """Whether no process answers the message any more: what it gave is there."""
        return not self._tasks or not state.get_tasks(task_ids=list(self._tasks), statuses=OPEN)

    def give_up(self, state: Any, object_store: Any) -> None:
        """Answer the message by an error."""
        if self._message is not None:
            self._insert(Message(Error(ErrorCode.CLIENT_APP_CRASHED, UNANSWERED), reply_to=self._message), state, object_store)

    def _forget(self, state: Any, object_store: Any, message: str) -> None:
        for task in self._tasks:
            state.finish_task(task, SubStatus.STOPPED, FORGOTTEN)  # its process ends with its next call
        _delete(state, object_store, message, *_ids(state.get_messages_legacy(is_reply=True)))


class _Replies:
    """A node's state, in which a message has a whole reply as soon as nobody is left to give one."""

    def __init__(self, answering: Answering, state: Any, object_store: Any) -> None:
        self.answering, self.state, self.object_store = answering, state, object_store

    def __getattr__(self, name: str) -> Any:
        return getattr(self.state, name)

    def get_messages_legacy(self, **which: Any) -> Any:
        ended = self.answering.ended(self.state)  # a process gives its reply first, and ends then
        found = self.state.get_messages_legacy(**which)
        while not (whole := all(map(self._is_whole, found))) and not ended:
            time.sleep(PART_SECONDS)
            ended = self.answering.ended(self.state)
        if whole and (found or not ended):
            return found
        _delete(self.state, self.object_store, *_ids(found))
        self.answering.give_up(self.state, self.object_store)
        return self.state.get_messages_legacy(**which)

    def _is_whole(self, reply: Message) -> bool:
        try:
            tree = self.object_store.get_object_tree(reply.metadata.message_id)
        except NoObjectInStoreError:  # dropped, as no part of it came for three minutes; its process fails
            return False
        return all(self.object_store.get(part.object_id) for part in iterate_object_tree(tree))


def _ids(messages: Iterable[Message]) -> list[str]:
    return [message.metadata.message_id for message in messages]


def _delete(state: Any, object_store: Any, *messages: str) -> None:
    state.delete_messages(message_ids=messages)
    for each in messages:
        object_store.delete(each)


def given_again(pull: Any) -> Any:
    """Flower's answer to a process that asks for its message; what it has not all of yet counts as not given."""

    @wraps(pull)
    def pull_messages(request: Any, state: Any, task: Any) -> Any:
        with state.lock_msg_store:
            for entry in state.msg_store.values():
                told = entry.message.metadata
                if told.run_id == task.run_id and not told.reply_to_message_id and told.message_id in state.object_store:
                    entry.is_retrieved = False
        return pull(request, state, task)

    return pull_messages


def _open(state: Any) -> set[int]:
    return {task.task_id for task in state.get_tasks(statuses=OPEN)}


def install() -> bool:
    """Have this process's SuperNode do so; whether this version of Flower has the places for it."""
    try:
        loop, handlers = import_module(LOOP), import_module(HANDLERS)
        pull = given_again(handlers.pull_messages)
        halves = [getattr(loop, name) for name in (TAKE_IN, SEND, INSERT)]
    except (ImportError, AttributeError):
        return False
    if not isinstance(getattr(halves[0], "__self__", None), Answering):
        answering = Answering(*halves)
        vars(loop).update({TAKE_IN: answering.take_in, SEND: answering.send})
        vars(handlers).update(pull_messages=pull)
    return True

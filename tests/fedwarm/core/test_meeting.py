"""Pieces of work that meet: in their order, one at a time, and nobody waits for who has ended or failed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

import pytest

from fedwarm.core import meeting


def doubled(wishes: list[Any], size: int) -> Sequence[Any]:
    return [(wish, len(wishes), size) for wish in wishes]


def test_what_all_wait_for_is_granted_at_once() -> None:
    assert meeting.size() == 0
    found = meeting.together([lambda n=n: meeting.meet(n, doubled) for n in range(3)], 5)  # type: ignore[misc]
    assert found == [(0, 3, 5), (1, 3, 5), (2, 3, 5)]
    assert meeting.size() == 0


def test_they_run_in_their_order_and_never_at_once() -> None:
    said: list[str] = []

    def work(name: str, times: int) -> str:
        for i in range(times):
            said.append(f"{name}{i}")
            meeting.meet(name, lambda wishes, size: wishes) if i % 2 else meeting.meet(name, doubled)
        said.append(f"{name} ends")
        return name

    assert meeting.together([lambda: work("a", 1), lambda: work("b", 2), lambda: work("c", 0)], 2) == ["a", "b", "c"]
    assert said == ["a0", "b0", "c ends", "a ends", "b1", "b ends"]


def test_who_waits_for_another_thing_is_granted_apart() -> None:
    calls: list[list[int]] = []

    def other(wishes: list[Any], size: int) -> Sequence[Any]:
        calls.append(list(wishes))
        return wishes

    works: list[Callable[[], Any]] = [
        lambda: meeting.meet(1, doubled),
        lambda: meeting.meet(2, other),
        lambda: meeting.meet(3, other),
    ]
    assert meeting.together(works, 2) == [(1, 1, 2), 2, 3]
    assert calls == [[2, 3]]


def test_a_refusal_reaches_each_that_waited_and_they_can_go_on() -> None:
    def refuse(wishes: list[Any], size: int) -> Sequence[Any]:
        raise ValueError("no")

    def work(n: int) -> str:
        try:
            meeting.meet(n, refuse)
        except ValueError as error:
            return f"{n}: {error}"
        return "granted"

    assert meeting.together([lambda: work(0), lambda: work(1)], 2) == ["0: no", "1: no"]


def test_the_first_failure_is_raised_when_all_have_ended() -> None:
    ended: list[int] = []

    def work(n: int) -> None:
        if n == 1:
            raise KeyError(n)
        meeting.meet(n, doubled)
        ended.append(n)

    with pytest.raises(KeyError):
        meeting.together([lambda n=n: work(n) for n in range(3)], 2)  # type: ignore[misc]
    assert ended == [0, 2]


def test_an_interrupt_leaves_no_thread_behind() -> None:
    def interrupt(wishes: list[Any], size: int) -> Sequence[Any]:
        raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        meeting.together([lambda: meeting.meet(0, interrupt), lambda: meeting.meet(1, interrupt)], 2)
    assert threading.active_count() == before


def test_each_has_the_context_it_was_called_in() -> None:
    told: ContextVar[str] = ContextVar("told", default="nothing")
    token = told.set("something")
    try:
        assert meeting.together([told.get, lambda: told.set("else") and told.get()], 2) == ["something", "else"]
        assert told.get() == "something"
    finally:
        told.reset(token)

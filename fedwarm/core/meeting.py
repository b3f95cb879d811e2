"""Pieces of work that meet: what several of them wait for is done for all of them together.

Each runs in a thread of its own, and one at a time: in their order, until it ends or meets the others. When all that have not
ended wait, what they wait for is granted, and they go on in the same order. So the outcome does not depend on threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextvars import ContextVar, copy_context
from typing import Any, TypeVar

T = TypeVar("T")
Grant = Callable[[list[Any], int], Sequence[Any]]
LEAVE_SECONDS = 1.0


class _AbandonedError(BaseException):
    """Those who were to meet are gone."""


class _Seat:
    """A piece of work, its thread, and what it waits for."""

    def __init__(self, work: Callable[[], Any], size: int) -> None:
        self.work, self.size = work, size
        self.wish: Any = None
        self.grant: Grant | None = None
        self.answer: Any = None
        self.failure: BaseException | None = None
        self.abandoned = self.ended = False
        self._turn, self._rest = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=copy_context().run, args=(self._run,), name="fedwarm-meeting", daemon=True)

    def go(self) -> None:
        """Let it run until it ends or waits."""
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._turn.release()
        self._rest.acquire()

    def wait(self, wish: Any, grant: Grant) -> Any:
        """Called in its own thread: give the turn back, and go on with the answer."""
        self.wish, self.grant = wish, grant
        self._rest.release()
        self._turn.acquire()
        if self.abandoned:
            raise _AbandonedError
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure
        return self.answer

    def leave(self) -> None:
        """End its thread where it waits for what nobody will grant."""
        if self.ended or self._thread.ident is None:
            return
        self.abandoned = True
        self._turn.release()
        self._thread.join(LEAVE_SECONDS)

    def _run(self) -> None:
        _seat.set(self)
        try:
            self.answer = self.work()
        except BaseException as error:
            self.failure = error
        self.ended = True
        self._rest.release()


_seat: ContextVar[_Seat | None] = ContextVar("seat", default=None)


def size() -> int:
    """How many are done together, as `together` was told; 0 where nobody meets."""
    seat = _seat.get()
    return 0 if seat is None else seat.size


def meet(wish: Any, grant: Grant) -> Any:
    """Wait for the others, and have one's wish granted with theirs.

    Args:
        wish: what is to be done.
        grant: is called once with the wishes of all that wait for this very function, and `size`; it gives their answers.

    Raises:
        Exception: what `grant` raised.
    """
    seat = _seat.get()
    assert seat is not None, "nobody meets here"
    return seat.wait(wish, grant)


def together(works: Sequence[Callable[[], T]], size: int) -> list[T]:
    """The outcomes of pieces of work that may meet, in their order.

    Raises:
        Exception: what the first of them raised that did, once all have ended.
    """
    seats = [_Seat(work, size) for work in works]
    try:
        waiting = seats
        while waiting:
            for seat in waiting:
                seat.go()
            waiting = [seat for seat in seats if not seat.ended]
            _grant(waiting)
    finally:
        for seat in seats:
            seat.leave()
    for seat in seats:
        if seat.failure is not None:
            raise seat.failure
    return [seat.answer for seat in seats]


def _grant(waiting: Sequence[_Seat]) -> None:
    for grant in dict.fromkeys(seat.grant for seat in waiting):
        assert grant is not None
        those = [seat for seat in waiting if seat.grant is grant]
        try:
            answers: Sequence[Any] = grant([seat.wish for seat in those], those[0].size)
        except Exception as error:
            for seat in those:
                seat.failure = error
            continue
        for seat, answer in zip(those, answers, strict=True):
            seat.wish, seat.answer = None, answer

"""Work that goes over a machine's cards: a thread a card, each with a part of its own, and the results as they come.

Threads are enough, as a card's work is waited for and not computed here, and each has its card's own copy of what it works with.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from contextvars import copy_context
from queue import SimpleQueue
from typing import TypeVar

from fedwarm.core import placement

T = TypeVar("T")


class _Ended:
    """A part gives no more; `error`: why, where it was not done."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


def over_cards(parts: Sequence[Callable[[], Iterable[T]]]) -> Generator[T, None, None]:
    """What each part gives; part k computes on the card whose turn it is for the worker of number k.

    A generator that is closed lets each part end what it is at.

    Raises:
        BaseException: what a part raised, once all have ended.
    """
    found: SimpleQueue[T | _Ended] = SimpleQueue()
    stop = threading.Event()

    def run(number: int, part: Callable[[], Iterable[T]]) -> None:
        placement.settle(number)
        try:
            for each in part():
                found.put(each)
                if stop.is_set():
                    break
            found.put(_Ended())
        except BaseException as error:
            stop.set()
            found.put(_Ended(error))

    threads = [threading.Thread(target=copy_context().run, args=(run, k, part), daemon=True) for k, part in enumerate(parts)]
    for thread in threads:
        thread.start()
    try:
        yield from _results(found, len(threads))
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _results(found: SimpleQueue[T | _Ended], parts: int) -> Generator[T, None, None]:
    failure: BaseException | None = None
    while parts:
        each = found.get()
        if isinstance(each, _Ended):
            parts, failure = parts - 1, failure or each.error
        elif failure is None:
            yield each
    if failure is not None:
        raise failure

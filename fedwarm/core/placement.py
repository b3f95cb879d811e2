"""Which of a machine's GPUs a process computes on: this is the one place that decides.

Workers of a run have numbers, and go over the cards in turn (`turn`), so that a client is where its worker is, whatever it does:
training, tuning, drawing. What has no number, as the server, is on the first card. On a machine with one card it is torch's
current one. Something else can stand in for a machine's cards (`stand_in`), and hears who computes on which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Hears = Callable[[int | None, int], None]


def _count() -> int:
    import torch

    return max(1, torch.cuda.device_count()) if torch.cuda.is_available() else 0


def _device(number: int) -> torch.device:
    import torch

    return torch.device("cuda", number) if cards() > 1 else torch.device("cuda")


def _title(number: int) -> str:
    import torch

    return torch.cuda.get_device_name(_device(number))


def _deaf(worker: int | None, card: int) -> None:
    """Nobody listens."""


@dataclass(frozen=True)
class Cards:
    """A machine's GPUs, as they are where nothing else is said.

    Attributes:
        count: how many there are.
        device: that of a card by its number.
        title: a card's model.
        hears: is told each time that a worker (None: who has no number) is placed on a card.
    """

    count: Callable[[], int] = _count
    device: Callable[[int], torch.device] = _device
    title: Callable[[int], str] = _title
    hears: Hears = _deaf


_worker: ContextVar[int | None] = ContextVar("worker", default=None)
_present = Cards()


def stand_in(found: Cards | None) -> None:
    """From now on these are the machine's cards for this process and those that are forked from it; None: its own."""
    global _present
    _present = found or Cards()


@contextmanager
def standing_in(found: Cards) -> Iterator[None]:
    """The same for a block."""
    before = _present
    stand_in(found)
    try:
        yield
    finally:
        stand_in(before)


def cards() -> int:
    """How many GPUs can be used here."""
    return _present.count()


def devices() -> list[torch.device]:
    """All GPUs that can be used here."""
    return [_present.device(number) for number in range(cards())]


def title(number: int = 0) -> str:
    """The model of a card."""
    return _present.title(number)


def settle(worker: int) -> None:
    """From now on this thread works for the worker of this number."""
    _worker.set(worker)


def turn(number: int) -> int:
    """The card whose turn it is for the worker of a number."""
    return number % max(1, cards())


def on_gpu(name: str) -> bool:
    """Whether the setting `device` means a GPU of this machine."""
    return name == "cuda" or (name == "auto" and cards() > 0)


def cards_for(name: str) -> int:
    """How many cards the setting `device` means; 0: it means the CPU."""
    return cards() if on_gpu(name) else 0


def placed(name: str) -> torch.device:
    """The device of the setting `device` for this worker, or for the server."""
    import torch

    if not on_gpu(name):
        return torch.device("cpu")
    worker = _worker.get()
    card = turn(worker or 0)
    _present.hears(worker, card)
    return _present.device(card)

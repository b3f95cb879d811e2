"""Which of a machine's GPUs a process computes on: this is the one place that decides.

Workers of a run have numbers, and go over the cards in turn; what has no number, as the server, is on the first. The same goes
for work that is done by client (`turn`). On a machine with one card it is torch's current one.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_worker: ContextVar[int] = ContextVar("worker", default=0)


def cards() -> int:
    """How many GPUs torch can use here."""
    import torch

    return max(1, torch.cuda.device_count()) if torch.cuda.is_available() else 0


def settle(worker: int) -> None:
    """From now on this thread works for the worker of this number."""
    _worker.set(worker)


def turn(number: int) -> int:
    """The card whose turn it is for the worker, or the client, of a number."""
    return number % max(1, cards())


def card(number: int) -> torch.device:
    """A card by its number."""
    import torch

    return torch.device("cuda", number) if cards() > 1 else torch.device("cuda")


def on_gpu(name: str) -> bool:
    """Whether the setting `device` means a GPU of this machine."""
    return name == "cuda" or (name == "auto" and cards() > 0)


def placed(name: str, number: int | None = None) -> torch.device:
    """The device of the setting `device` for this worker, or for the worker or client of a number."""
    import torch

    return card(turn(_worker.get() if number is None else number)) if on_gpu(name) else torch.device("cpu")

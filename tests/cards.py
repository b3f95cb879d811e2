"""An app that believes in two GPUs: both are the CPU, by names of their own, and who is placed on which is written down."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from fedwarm.clients.client_app import app as app

from fedwarm.core import placement

PLACE = "CARDS_PLACE"


def _write(worker: int | None, card: int) -> None:
    """A line of this process: who it was and which card it got."""
    who = "server" if worker is None else f"worker-{worker}"
    with (Path(os.environ[PLACE]) / f"{os.getpid()}-{who}").open("a") as file:
        file.write(f"cuda:{card}\n")


def asked(folder: Path) -> dict[str, set[str]]:
    """Devices by who was placed on them."""
    found: dict[str, set[str]] = {}
    for path in folder.iterdir():
        found.setdefault(path.name.partition("-")[2], set()).update(path.read_text().split())
    return found


TWO = placement.Cards(lambda: 2, lambda number: torch.device("cpu", number), lambda number: f"stand-in {number}", _write)

if PLACE in os.environ:  # in a worker that was spawned
    placement.stand_in(TWO)

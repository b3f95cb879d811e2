"""An app that believes in two GPUs: both are the CPU, and who asks for one is written down."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from fedwarm.clients.client_app import app as app

from fedwarm.core import placement

PLACE = "CARDS_PLACE"


def card(number: int) -> torch.device:
    """The CPU in place of a card; a line of this process and the card is added."""
    with (Path(os.environ[PLACE]) / f"{os.getpid()}").open("a") as file:
        file.write(f"{number}\n")
    return torch.device("cpu")


def asked(folder: Path) -> dict[int, set[int]]:
    """The cards that each process asked for."""
    return {int(path.name): set(map(int, path.read_text().split())) for path in folder.iterdir()}


if PLACE in os.environ:
    placement.cards, placement.card = lambda: 2, card
    torch.cuda.get_device_name = lambda *device: "none"  # type: ignore[assignment]

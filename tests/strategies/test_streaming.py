"""The server takes replies one at a time: what it has added to its sum is gone from memory before the next but one comes."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message
from flwr.serverapp import Grid

from fedwarm.engines.local.run import run_local
from fedwarm.flower.app import FlowerApp
from fedwarm.flower.writing import CLIENT
from fedwarm.settings.fields import Value
from tests.grids import Through, served

CLIENTS = 12
FAST: dict[str, Value] = {
    "num-server-rounds": 2, "local-epochs": 1, "data.max-examples": 8, "data.partition": "iid", "data.image-size": 8,
    "server-threads": 1,
}  # fmt: skip


class Counted(Through):
    """A grid that counts with each training reply how many of all are in memory."""

    def __init__(self, grid: Grid) -> None:
        super().__init__(grid)
        self.known: list[weakref.ref[Any]] = []

    def stream(self, messages: Any, seconds: float) -> Iterator[Message | None]:
        for reply in self.grid.stream(messages, seconds):  # type: ignore[attr-defined]
            if reply.metadata.message_type == "train":
                self.known.append(weakref.ref(next(iter(reply.content["arrays"].values()))))
                ALIVE.append(sum(ref() is not None for ref in self.known))
            yield reply


ALIVE: list[int] = []
COUNTED = served(Counted)


@pytest.mark.parametrize(("rule", "most"), [("mean", 2), ("median", CLIENTS + 1)])
@pytest.mark.parametrize("workers", [1, 2])
def test_replies_are_not_gathered(rule: str, most: int, workers: int, tmp_path: Path) -> None:
    """Without the collector's help, as nothing in a message may refer to itself; the median has to hold all of a round."""
    ALIVE.clear()
    flat = {"method": "fedavg", **FAST, "robust.rule": rule, "out": str(tmp_path / "run"), "client-folder": str(tmp_path / "c")}
    gc.collect()
    gc.disable()
    try:
        run_local(FlowerApp(f"{__name__}:COUNTED", CLIENT, flat, None), {}, clients=CLIENTS, workers=workers)
    finally:
        gc.enable()
    assert len(ALIVE) == 2 * CLIENTS
    assert max(ALIVE) <= most

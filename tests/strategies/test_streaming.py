"""The server takes replies one at a time: what it has added to its sum is gone from memory before the next but one comes."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from fedwarm.engines.local.run import LocalGrid, run_local
from fedwarm.flower.app import FlowerApp
from fedwarm.settings.fields import Value

CLIENTS = 12
FAST: dict[str, Value] = {"num-server-rounds": 2, "local-epochs": 1, "data.max-examples": 8, "data.partition": "iid"}


@pytest.mark.parametrize(("rule", "most"), [("mean", 2), ("median", CLIENTS + 1)])
@pytest.mark.parametrize("workers", [1, 2])
def test_replies_are_not_gathered(rule: str, most: int, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the collector's help, as nothing in a message may refer to itself; the median has to hold all of a round."""
    alive: list[int] = []
    known: list[weakref.ref[Any]] = []
    original = LocalGrid.stream

    def stream(grid: LocalGrid, messages: Any, seconds: float) -> Iterator[Message | None]:
        for reply in original(grid, messages, seconds):
            assert reply is not None
            if reply.metadata.message_type == "train":
                known.append(weakref.ref(next(iter(reply.content["arrays"].values()))))
                alive.append(sum(ref() is not None for ref in known))
            yield reply

    monkeypatch.setattr(LocalGrid, "stream", stream)
    flat = {"method": "fedavg", **FAST, "robust.rule": rule, "out": str(tmp_path / "run"), "client-folder": str(tmp_path / "c")}
    gc.collect()
    gc.disable()
    try:
        app = FlowerApp("fedwarm.strategies.server_app:app", "fedwarm.clients.client_app:app", flat, None)
        run_local(app, {}, clients=CLIENTS, workers=workers)
    finally:
        gc.enable()
    assert len(alive) == 2 * CLIENTS
    assert max(alive) <= most

"""A SuperNode asks soon after an exchange, and less and less often where nothing comes."""

from __future__ import annotations

import time
from types import ModuleType

import pytest

from fedwarm.node import pace


def test_waits_of_a_kind_grow_to_flowers_own(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    kept = pace.Pace()
    for seconds in (3, 3, 3, 3, 3, 0.5, 0.5, 3):
        kept.sleep(seconds)
    assert waited == [0.375, 0.75, 1.5, 3, 3, 0.0625, 0.125, 0.375]
    assert kept.monotonic is time.monotonic, "all else is the module's"
    for _ in range(5000):  # hours of training: no number grows too large
        kept.sleep(0.5)
    assert waited[-1] == 0.5


def test_flowers_loop_waits_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from flwr.supernode import start_client_internal as loop

    monkeypatch.setattr(loop, "time", time)
    assert pace.install() and isinstance(loop.time, pace.Pace)
    paced = loop.time
    assert pace.install() and loop.time is paced
    monkeypatch.setattr(pace, "LOOP", "elsewhere")
    assert not pace.install()
    monkeypatch.setattr(pace, "import_module", lambda name: ModuleType(name))
    assert not pace.install()

"""Settings that make synthesis quick: the embedded foundation at one step, few images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest

from fedwarm.catalogue import parse
from fedwarm.core.compute import torch_threads
from fedwarm.settings.config import Config, General
from fedwarm.settings.fields import Value, keys

Configure = Callable[..., Config]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tests compute on one thread, and leave the number as they found it."""
    with torch_threads(1):
        yield


@pytest.fixture(scope="session")
def configure() -> Configure:
    """The settings of a small run; names of `gen-fedsd` and of every run come without a prefix, others with `__` for the dot."""

    def make(**changes: Value) -> Config:
        flat: dict[str, Value] = {
            "method": "gen_fedsd", "augment": "gen-fedsd", "data.partition": "dirichlet", "data.alpha": 0.1,
            "data.max-examples": 40, "gen-fedsd.steps": 1, "gen-fedsd.budget-images": 12,
        }  # fmt: skip
        for name, value in changes.items():
            key = name.replace("__", ".").replace("_", "-")
            general = key in {name for name, _, _ in keys((General,))}
            flat[key if "." in key or general else f"gen-fedsd.{key}"] = value
        return parse(flat)

    return make


@pytest.fixture
def warned() -> Iterator[list[str]]:
    """Lines that are logged as warnings during the test."""
    lines: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler, log = Listener(logging.WARNING), logging.getLogger("flwr")
    log.addHandler(handler)
    yield lines
    log.removeHandler(handler)

"""Federated learning on top of Flower: methods, privacy, compression and records, from one command or from Python.

`fedwarm.run` runs a method and returns its result; `fedwarm.load` opens a run that is finished. Both are imported when they are
first asked for, so that `import fedwarm` takes no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedwarm.api import Result, RunError, SettingError, load, run

__all__ = ["Result", "RunError", "SettingError", "load", "run"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("fedwarm.core.version").VERSION
    if name in __all__:
        return getattr(import_module("fedwarm.api"), name)
    raise AttributeError(f"module 'fedwarm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, "__version__"])

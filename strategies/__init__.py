"""Flower's server side: one strategy per method, imported when first asked for; a side with nothing of its own has no file."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module, util
from typing import Any

from fedwarm.settings.kinds import METHODS
from fedwarm.settings.registry import referred


def __getattr__(name: str) -> Any:
    method = METHODS.titled(name)
    if method is None:
        raise AttributeError(f"{__name__} has no {name!r}; it has a strategy for each method: {', '.join(METHODS)}")
    return strategy_class(method)


@lru_cache(maxsize=64)
def strategy_class(method: str) -> Any:
    """The strategy of a method: the class in the file of its stem, else the one it names, else FedAvg bound to it.

    Raises:
        SettingError: there is no such method.
    """
    name = METHODS.canonical(method)
    declared = METHODS.load(name)
    if name in METHODS.own() and util.find_spec(f"{__name__}.{name}") is not None:
        return getattr(import_module(f".{name}", __name__), declared.title)
    base = referred(declared.server, f"server of method {name!r}") if declared.server else __getattr__("FedAvg")
    return type(declared.title, (base,), {"method": name, "__doc__": declared.summary, "__module__": base.__module__})

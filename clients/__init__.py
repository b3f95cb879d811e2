"""Flower's client side: one trainer per method, imported when first asked for; a side with nothing of its own has no file."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module, util
from typing import Any

from fedwarm.settings.kinds import METHODS
from fedwarm.settings.registry import referred

END = "Client"


def __getattr__(name: str) -> Any:
    method = METHODS.titled(name.removesuffix(END)) if name.endswith(END) else None
    if method is None:
        raise AttributeError(f"{__name__} has no {name!r}; it has a client for each method: {', '.join(METHODS)}")
    return trainer_class(method)


@lru_cache(maxsize=64)
def trainer_class(method: str) -> Any:
    """The trainer of a method: the class in the file of its stem, else the one it names, else the base of all.

    Raises:
        SettingError: there is no such method.
    """
    name = METHODS.canonical(method)
    declared = METHODS.load(name)
    if name in METHODS.own() and util.find_spec(f"{__name__}.{name}") is not None:
        return getattr(import_module(f".{name}", __name__), declared.title + END)
    if declared.client:
        return referred(declared.client, f"client of method {name!r}")
    return import_module("fedwarm.rounds.client").BaseClient

"""Flower's server side: one strategy per method, imported when first asked for; `STRATEGIES` is the table of names."""

from __future__ import annotations

from importlib import import_module
from typing import Any

STRATEGIES = {
    "FedAvg": "fedavg",
    "FedProx": "fedprox",
    "Scaffold": "scaffold",
    "DpRec": "dp_rec",
    "QuantizationRobust": "quantization_robust",
    "GenFedSd": "gen_fedsd",
    "LocalOnly": "local_only",
    "Centralized": "centralized",
    "WarmFed": "warmfed",
}
__all__ = list(STRATEGIES)


def __getattr__(name: str) -> Any:
    if name not in STRATEGIES:
        raise AttributeError(f"{__name__} has no {name!r}; there are {', '.join(STRATEGIES)}")
    return getattr(import_module(f".{STRATEGIES[name]}", __name__), name)


def strategy_class(method: str) -> Any:
    """The strategy of a method's name.

    Raises:
        SettingError: there is no such method.
    """
    from fedwarm.methods import canonical

    found = canonical(method)
    return __getattr__(next(name for name, module in STRATEGIES.items() if module == found))

"""Flower's client side: one trainer per method, under the same names as the strategies; imported when first asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

TRAINERS = {
    "FedAvgClient": "fedavg",
    "FedProxClient": "fedprox",
    "ScaffoldClient": "scaffold",
    "DpRecClient": "dp_rec",
    "QuantizationRobustClient": "quantization_robust",
    "GenFedSdClient": "gen_fedsd",
    "LocalOnlyClient": "local_only",
    "CentralizedClient": "centralized",
    "WarmFedClient": "warmfed",
}
__all__ = list(TRAINERS)


def __getattr__(name: str) -> Any:
    if name not in TRAINERS:
        raise AttributeError(f"{__name__} has no {name!r}; there are {', '.join(TRAINERS)}")
    return getattr(import_module(f".{TRAINERS[name]}", __name__), name)


def trainer_class(method: str) -> Any:
    """The trainer of a method's name.

    Raises:
        SettingError: there is no such method.
    """
    from fedwarm.methods import canonical

    found = canonical(method)
    return __getattr__(next(name for name, module in TRAINERS.items() if module == found))

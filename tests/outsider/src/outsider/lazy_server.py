"""A method with state at its server, declared: the model moves by a running mean of the rounds' updates."""

from __future__ import annotations

from dataclasses import dataclass

from fedwarm.methods import Method
from fedwarm.settings.fields import Group, setting


@dataclass(frozen=True)
class Lazy(Group, prefix="lazy-server"):
    """Settings of the method."""

    memory: float = setting(0.5, "share of the update that comes from the rounds before; 0 is FedAvg", low=0.0, high=0.99)


COMPONENT = Method(
    "LazyServer", "FedAvg whose server moves by a running mean of updates", Lazy, server="outsider.lazy_side:LazyServer"
)

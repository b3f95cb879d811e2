"""The server's side of the method `lazy_server`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from fedwarm.core.arrays import Arrays
from fedwarm.core.stages import Stage
from fedwarm.strategies import FedAvg
from outsider.lazy_server import Lazy


class LazyServer(FedAvg):
    """w <- w + v with v <- memory v + (1 - memory) (mean - w); v is part of the checkpoint."""

    velocity: ClassVar[Arrays] = {}

    def finish(self, stage: Stage) -> None:
        before = self.arrays
        super().finish(stage)
        if stage.name != "round":
            return
        memory = self.config.of(Lazy).memory
        new = {name: self.arrays[name].astype(np.float64) - before[name] for name in before}
        known = self.velocity or {name: np.zeros_like(array) for name, array in new.items()}
        self.velocity = {name: memory * known[name] + (1 - memory) * new[name] for name in new}
        self.arrays = {name: (before[name] + self.velocity[name]).astype(before[name].dtype) for name in before}

    def state(self) -> dict[str, Arrays]:
        return {**super().state(), **({"velocity": self.velocity} if self.velocity else {})}

    def restore(self, parts: Mapping[str, Arrays], facts: Mapping[str, Any]) -> None:
        super().restore(parts, facts)
        self.velocity = dict(parts.get("velocity", {}))

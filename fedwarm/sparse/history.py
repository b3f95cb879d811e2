"""How sparse a model became, round by round, for the record."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from fedwarm.sparse.groups import Floats, Groups, Mask, share
from fedwarm.sparse.plan import HALF

BINS = 20


@dataclass
class History:
    """What each round came to.

    Attributes:
        density: of the model's numbers, the share in units that are on (theta of at least 1/2).
        layers: the same of each layer with gates, by its name.
        on: groups that are on.
        gone: groups that are gone for good.
        returned: groups that were off before the round and are on behind it.
    """

    density: list[float] = field(default_factory=list)
    layers: dict[str, list[float]] = field(default_factory=dict)
    on: list[int] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    returned: list[int] = field(default_factory=list)

    def add(self, groups: Groups, before: Floats, theta: Floats, alive: Mask) -> None:
        """A round has ended; `before`, `theta`, `alive` (G,)."""
        on = groups.closed(alive & (theta >= HALF))
        live = groups.live(on)
        self.density.append(round(share(live), 6))
        for site in groups.sites:
            self.layers.setdefault(site.layer, []).append(round(float(live[site.weight].mean()), 6))
        self.on.append(int(on.sum()))
        self.gone.append(int((~alive).sum()))
        self.returned.append(int(((before < HALF) & (theta >= HALF)).sum()))

    def facts(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return asdict(self)

    def told(self, groups: Groups, theta: Floats) -> dict[str, Any]:
        """What the record says, with how many groups have which theta: `bins` between 0 and 1."""
        counts = {layer: np.histogram(values, BINS, (0.0, 1.0))[0].tolist() for layer, values in groups.layers(theta).items()}
        return {**asdict(self), "groups": groups.count, "theta": {"bins": BINS, "layers": counts}}

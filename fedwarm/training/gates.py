"""Gates of a mixture: networks that say, before the label is seen, how likely each expert is (logits over all experts).

A gate belongs to one client. Its last layer begins at zero, so that at first no expert is likelier than another.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fedwarm.core.seeds import initialisation

OWN_NET, BIAS, TRUNK, ALIGNED = "own_net", "bias", "trunk", "aligned"
GATES = (OWN_NET, BIAS, TRUNK, ALIGNED)
MAPS, SIDE = 8, 4


class Gate(nn.Module):
    """Logits (b, experts) from what a gate may look at."""

    def forward(self, inputs: Tensor, features: Tensor | None) -> Tensor:
        """Logits (b, experts).

        Args:
            inputs: (b, 3, S, S).
            features: what the experts' heads see (b, d), of the shared trunk or in the mean; None where nothing looks at it.
        """
        raise NotImplementedError


class Bias(Gate):
    """One prior for all of a client's images; as in FedEM (Marfoq, Neglia, Bellet, Kameni, Vidal, arXiv 2108.10252)."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, inputs: Tensor, features: Tensor | None) -> Tensor:
        return self.logits.expand(len(inputs), -1)


class OwnNet(Gate):
    """One convolution with stride 2 and a linear layer on 4 x 4 cells of its maps."""

    def __init__(self, experts: int) -> None:
        super().__init__()
        self.maps = nn.Sequential(nn.Conv2d(3, MAPS, 5, 2, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(SIDE), nn.Flatten())
        self.last = nn.Linear(MAPS * SIDE * SIDE, experts)

    def forward(self, inputs: Tensor, features: Tensor | None) -> Tensor:
        found: Tensor = self.last(self.maps(inputs))
        return found


class OnFeatures(Gate):
    """A linear layer on the features."""

    def __init__(self, width: int, experts: int) -> None:
        super().__init__()
        self.last = nn.Linear(width, experts)

    def forward(self, inputs: Tensor, features: Tensor | None) -> Tensor:
        assert features is not None
        found: Tensor = self.last(features)
        return found


def new_gate(kind: str, experts: int, width: int, seed: int, client: int, scale: float = 0.0) -> Gate:
    """A client's first gate.

    Args:
        kind: one of GATES.
        experts: how many there are.
        width: d of the features.
        seed, client: its random draws belong to them.
        scale: standard deviation of the logits' biases; 0: the gate is uniform.
    """
    with initialisation(seed, "gate", client):
        first = torch.randn(experts) * scale
        if kind == BIAS:
            return Bias(first)
        gate = OwnNet(experts) if kind == OWN_NET else OnFeatures(width, experts)
    with torch.no_grad():
        gate.last.weight.zero_()
        gate.last.bias.copy_(first)
    return gate


def known(prior: Sequence[float]) -> Gate:
    """The gate that holds a prior (experts,) for whatever it sees; it needs not be normalised."""
    shares = torch.tensor(list(prior), dtype=torch.float64)
    return Bias((shares / shares.sum()).clamp(min=torch.finfo(torch.float32).tiny).log().float())

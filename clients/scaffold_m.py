"""SCAFFOLD-M's client: SCAFFOLD's correction, mixed with the server's direction (Cheng et al., arXiv 2306.16504, Alg. 2)."""

from __future__ import annotations

from fedwarm.methods.scaffold_m import ScaffoldM, unmixed

from .fedavg_m import DirectedClient
from .scaffold import ScaffoldClient, Tensors


class ScaffoldMClient(DirectedClient, ScaffoldClient):
    """Trains along beta (g - c_k + c) + (1 - beta) times the direction; c_k stays the mean of its own gradients."""

    mixture = ScaffoldM

    def control(self, own: Tensors, shared: Tensors, before: Tensors, after: Tensors, path: float) -> Tensors:
        if self.direction:
            after = unmixed(before, after, self.direction, path, self.config.of(ScaffoldM).beta)
        return super().control(own, shared, before, after, path)

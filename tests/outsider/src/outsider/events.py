"""A task: counts of events, by Poisson regression; the model gives the logarithm of the rate."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from fedwarm.tasks import Task


class Events(Task):
    """Poisson likelihood of counts whose logarithmic rate the model gives."""

    targets: ClassVar[str] = "numbers"
    counted: ClassVar[bool] = False

    def outputs(self, model: nn.Module, inputs: Tensor, draws: object) -> Tensor:
        """Rates (b, k)."""
        outputs: Tensor = model(inputs)
        return outputs.clamp(max=20).exp()

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return F.poisson_nll_loss(outputs, labels.to(outputs.dtype).reshape(outputs.shape), log_input=False)


COMPONENT = Events

"""Numbers: one or several an example."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from fedwarm.settings.fields import Group, setting
from fedwarm.tasks import Task

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"squared": F.mse_loss, "absolute": F.l1_loss, "huber": F.smooth_l1_loss}


@dataclass(frozen=True)
class Regression(Group, prefix="regression"):
    """Settings of how numbers are learned."""

    loss: str = setting(
        "squared", "loss of an error; squared; absolute; huber: squared below 1 and absolute above", choices=tuple(LOSSES)
    )
    offset: float = setting(
        0.0,
        "number subtracted from targets in training, e.g. their known mean; metrics stay in the targets' unit",
        low=-1e12,
        high=1e12,
    )
    scale: float = setting(
        1.0, "divisor of targets in training, e.g. their known standard deviation; metrics stay in the targets' unit", low=1e-9
    )


class Regressing(Task):
    """Squared error of numbers, in units of `regression.scale`."""

    settings: ClassVar[type[Group]] = Regression
    targets: ClassVar[str] = "numbers"
    counted: ClassVar[bool] = False

    def __init__(self, settings: Regression | None = None) -> None:
        self.numbers = settings or Regression()

    def outputs(self, model: nn.Module, inputs: Tensor, draws: object) -> Tensor:
        """Numbers (b, k) in the targets' own unit."""
        outputs: Tensor = model(inputs)
        return outputs * self.numbers.scale + self.numbers.offset

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        wanted = labels.to(outputs.dtype).reshape(outputs.shape)
        return LOSSES[self.numbers.loss](outputs / self.numbers.scale, wanted / self.numbers.scale)

    def predicted(self, outputs: Tensor) -> Tensor:
        return outputs.squeeze(-1) if outputs.shape[-1] == 1 else outputs


COMPONENT = Regressing

"""Batch normalisation."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from fedwarm.norms import replaced
from fedwarm.settings.fields import SettingError


class BatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` without a counter of steps, and of vectors, too: all of its state is float, and has a mean.

    A variance that a codec's noise brought below 0 counts as 0, so that answers stay finite.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.num_batches_tracked = None

    def forward(self, input: Tensor) -> Tensor:
        if self.training:
            return super().forward(input)
        assert self.running_var is not None
        return F.batch_norm(input, self.running_mean, self.running_var.clamp(min=0), self.weight, self.bias, eps=self.eps)

    def _check_input_dim(self, input: Tensor) -> None:
        """Whatever layer it is in the place of, its channels are the second axis."""

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        nn.Module._load_from_state_dict(self, *args, **kwargs)  # torch's own would ask for the counter


def batch(model: nn.Module) -> None:
    """Batch normalisation (Ioffe and Szegedy, arXiv 1502.03167) in place of others; its statistics travel like weights.

    Raises:
        SettingError: the model has no layers of normalisation.
    """
    if not replaced(model, lambda layer, channels: BatchNorm(channels)):
        raise SettingError("model.norm = 'batch' finds no layer to replace; use model.norm='own' or another model.name")


COMPONENT = batch

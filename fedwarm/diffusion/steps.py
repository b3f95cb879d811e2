"""Steps of an adapter's optimiser: its step size, and losses in float16 that neither sink nor overflow."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fedwarm.core.progress import tick
from fedwarm.diffusion.midway import Midway
from fedwarm.diffusion.settings import Diffusion

HALF_SCALE = 1024.0
FIRST_SCALE, GROWN_AFTER = 2.0**16, 50
"""At 1,024 pixels a scale of 1,024 loses a tenth of an adapter's first gradients. It grows again within an adapter's steps."""
MOST_SKIPPED = 40
"""In a row: more halvings than lie between the first scale and float16's smallest number."""
LOOKED_AT = 50


class Scaling:
    """The factor that a loss is multiplied by, so that its float16 gradients do not sink below float16's smallest number.

    A step whose gradient overflowed is left out, and the factor halved for the next ones (Micikevicius et al., arXiv 1710.03740,
    section 3.2; `torch.amp.GradScaler`). In other precisions it is 1, and nothing is left out.

    Args:
        device, dtype: where and in what precision the loss is computed; the trained parameters are float32.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        on, self._skipped = dtype == torch.float16, 0
        self._scaler = torch.amp.GradScaler(device.type, init_scale=FIRST_SCALE, growth_interval=GROWN_AFTER, enabled=on)

    @property
    def scaler(self) -> torch.amp.GradScaler:
        """What holds the factor."""
        return self._scaler

    @property
    def on(self) -> bool:
        """Whether losses are multiplied at all."""
        return bool(self._scaler.is_enabled())

    def backward(self, loss: Tensor) -> None:
        """Gradients of the loss, times the factor."""
        self._scaler.scale(loss).backward()

    def step(self, optimiser: torch.optim.Optimizer) -> bool:
        """A step along the gradients without the factor, and whether it was made: it is left out where they are not finite.

        Raises:
            FloatingPointError: gradients overflow at any factor.
        """
        before = self._scaler.get_scale()
        self._scaler.step(optimiser)
        self._scaler.update()
        made = bool(self._scaler.get_scale() >= before)
        self._skipped = 0 if made else self._skipped + 1
        if self._skipped > MOST_SKIPPED:
            raise FloatingPointError("every gradient overflows in fp16; set diffusion.precision='bf16' or 'fp32'")
        if not made and self._scaler.get_scale() < 1.0:
            self._scaler.update(1.0)  # what overflows there does not do so because of the factor
        return made


def factor_of(dtype: torch.dtype) -> float:
    """What a private loss of this precision is multiplied by, always."""
    return HALF_SCALE if dtype == torch.float16 else 1.0


def adamw(parameters: Sequence[nn.Parameter], settings: Diffusion) -> torch.optim.AdamW:
    """The optimiser of an adapter: on a GPU each step is one kernel, not several for each of many small matrices."""
    fused = all(parameter.device.type == "cuda" for parameter in parameters)
    return torch.optim.AdamW(parameters, lr=settings.lora_learning_rate, fused=fused)


def schedule_of(optimiser: torch.optim.Optimizer, settings: Diffusion) -> torch.optim.lr_scheduler.LRScheduler:
    """The step size over `lora_steps` steps, by `lora_schedule`."""
    if settings.lora_schedule == "constant":
        return torch.optim.lr_scheduler.ConstantLR(optimiser, factor=1.0)
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.lora_steps)


def minimise(
    optimiser: torch.optim.Optimizer,
    settings: Diffusion,
    gradient: Callable[[int], None],
    step_by: Callable[[torch.optim.Optimizer], bool] | None = None,
    midway: Midway | None = None,
) -> None:
    """`lora_steps` steps, each with the gradient that `gradient` puts into the parameters for the step of that number.

    Args:
        step_by: makes a step and says whether it did; one that it left out leaves the step size where it was. None: all are made.
        midway: keeps the state on the way, and has it of a tuning that was ended there.
    """
    schedule = schedule_of(optimiser, settings)
    for step in range(0 if midway is None else midway.restore(optimiser, schedule), settings.lora_steps):
        gradient(step)
        if step_by is None:
            optimiser.step()
        if step_by is None or step_by(optimiser):
            schedule.step()
        tick("adapter", step + 1, settings.lora_steps)
        if midway is not None and midway.due():
            midway.keep(step + 1, optimiser, schedule)


def descend(
    optimiser: torch.optim.Optimizer,
    settings: Diffusion,
    loss_of: Callable[[int], Tensor],
    scaling: Scaling,
    midway: Midway | None = None,
) -> None:
    """`lora_steps` steps along the gradient of a loss; one that overflows in float16 leaves the step size where it was.

    Args:
        loss_of: the scalar loss of the step of that number.
        scaling: the factor that it is multiplied by.
        midway: see `minimise`.

    Raises:
        FloatingPointError: the loss is not finite, which is seen within `LOOKED_AT` steps, or overflows at any factor.
    """

    def gradient(step: int) -> None:
        loss = loss_of(step)
        if step % LOOKED_AT == 0 and not scaling.on and not bool(torch.isfinite(loss.detach())):
            raise FloatingPointError(f"the loss is NaN or infinite at step {step + 1}; lower diffusion.lora-learning-rate")
        optimiser.zero_grad()
        scaling.backward(loss)

    minimise(optimiser, settings, gradient, scaling.step, midway)

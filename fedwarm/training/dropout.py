"""What layers draw in training (dropout, stochastic depth), which torch has them take from its global generators."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from fedwarm.core.seeds import derive

F = TypeVar("F", bound=Callable[..., Any])


def own_draws(fit: F) -> F:
    """A training whose layers draw by its generator's seed, whatever the process drew; in private training by secret draws."""

    @wraps(fit)
    def seeded(
        model: nn.Module, images: Tensor, labels: Tensor, plan: Any, generator: torch.Generator, *rest: Any, **named: Any
    ) -> Any:
        private: Any = named.get("private")
        source = generator if private is None or not draws(model) else private.generator()
        with layers_draw(source, next(model.parameters()).device):
            return fit(model, images, labels, plan, generator, *rest, **named)

    return cast(F, seeded)


def draws(model: nn.Module) -> bool:
    """Whether a model has layers that draw in training, as far as their names tell."""
    return any(word in type(part).__name__.lower() for part in model.modules() for word in ("drop", "stochastic"))


@contextmanager
def layers_draw(source: torch.Generator, device: torch.device) -> Iterator[None]:
    """Run a block whose layers draw by a generator's seed, and put the global generators back."""
    seed, devices = derive(source.initial_seed(), "layers"), [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        if devices:
            with torch.cuda.device(device):  # the call seeds the current card alone, which need not be the model's
                torch.cuda.manual_seed(seed)
        yield

"""Optimisers of torch's without torch's compiler."""

from __future__ import annotations

from inspect import unwrap
from typing import Any

import torch


class Light(torch.optim.Optimizer):
    """Stands before an optimiser of torch's, and takes torch's compiler out of it.

    `torch.optim` marks a few methods for the compiler, and imports all of it (sympy, triton, nearly as long as `import torch`
    itself) when the first of them is called. Nothing is compiled here, and a client's process that lives for one message has no
    time for it: the same functions are called without the marks, so the numbers are torch's.
    """

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters."""
        unwrap(super().add_param_group)(self, param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        unwrap(super().zero_grad)(self, set_to_none)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Move the parameters."""
        return unwrap(super().step)(self, closure)

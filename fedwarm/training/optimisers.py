"""Torch's SGD without torch's compiler.

`torch.optim` marks a few methods for the compiler, and imports all of it (sympy, triton, nearly as long as `import torch` itself)
when the first of them is called. Nothing is compiled here, and a client's process that lives for one message has no time for it:
this class calls the same functions without the marks, so its numbers are torch's.
"""

from __future__ import annotations

from inspect import unwrap
from typing import Any

import torch


class Sgd(torch.optim.SGD):
    """`torch.optim.SGD` that never imports `torch._dynamo`."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters."""
        unwrap(torch.optim.Optimizer.add_param_group)(self, param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        unwrap(torch.optim.Optimizer.zero_grad)(self, set_to_none)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Move the parameters."""
        return unwrap(torch.optim.SGD.step)(self, closure)

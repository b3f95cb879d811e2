"""Metrics of torchmetrics as they are: their states add up where torchmetrics says so, else clients' values are averaged.

`import torchmetrics` takes longer than all else that a client imports (it imports transformers and torchvision), so nothing here
imports it: a run that names one of its metrics does.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedwarm.settings.fields import SettingError

WIDTHS = ("num_classes", "num_labels", "num_outputs")


def foreign(found: Any, name: str, metric: Callable[..., Any], sum_of: Callable[..., Any], weighed: str) -> Any:
    """A metric out of a class of torchmetrics'.

    Args:
        found: what the name stands for.
        name: as it was given.
        metric, sum_of: what makes a `Metric` and a `Sum`.
        weighed: how values of clients are pooled, in words.

    Raises:
        SettingError: it is no class of torchmetrics', or cannot be made.
    """
    if not (isinstance(found, type) and all(hasattr(found, part) for part in ("update", "compute", "add_state"))):
        raise SettingError(
            f"metric {name!r} is neither a `fedwarm.metrics.Metric` nor a class of torchmetrics; name one of these"
        )

    def made(width: int) -> Any:
        taken = {key: width for key in WIDTHS if key in inspect.signature(found).parameters}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of its memory, mostly
                return found(**taken).set_dtype(torch.float64)
        except (TypeError, ValueError) as error:
            raise SettingError(
                f"metric {name!r} cannot be made: {str(error).splitlines()[0]}; give a class whose arguments have "
                "defaults, or a function that makes it"
            ) from error

    summed = all(getattr(each, "__name__", "") == "dim_zero_sum" for each in made(2)._reductions.values())
    one = sum_of(name.replace(":", "-").replace(".", "-"), lambda width: _size(made(width)) if summed else 2,
                 lambda task, width: _Adds(made(width), task, summed), whole=False)  # fmt: skip

    def value(total: Any, width: int) -> float | None:
        if not summed:
            return None if not total[1] else float(total[0] / total[1])
        each, place = made(width), 0
        for state, start in each._defaults.items():
            part = torch.from_numpy(np.asarray(total[place : place + start.numel()]))
            setattr(each, state, part.reshape(start.shape).to(start.dtype))
            place += start.numel()
        each._update_count = 1
        return float(torch.as_tensor(each.compute()).double().mean())

    lower = getattr(found, "higher_is_better", None) is False
    pooled = {} if summed else {"pooled": weighed}
    return metric(found.__name__, f"{found.__name__} of torchmetrics", {"": one}, value, lower=lower, **pooled)


def _size(made: Any) -> int:
    return int(sum(start.numel() for start in made._defaults.values()))


class _Adds:
    """A metric of torchmetrics' as it goes over batches."""

    def __init__(self, made: Any, task: Any, summed: bool) -> None:
        self.made, self.task, self.summed, self.examples = made, task, summed, 0

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        self.made.update(self.task.predicted(outputs), targets)
        self.examples += len(targets)

    def total(self) -> Tensor:
        if not self.summed:
            value = torch.as_tensor(self.made.compute()).double().mean()
            return torch.stack([value * self.examples, torch.tensor(float(self.examples), dtype=torch.float64)])
        return torch.cat([getattr(self.made, state).double().flatten() for state in self.made._defaults])

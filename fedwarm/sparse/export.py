"""Small networks in files, and what they save beside the whole ones."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import torch
from torch import nn

from fedwarm.core.inputs import Form
from fedwarm.models import Model, to_input
from fedwarm.quantize.export import KEPT, load_exported
from fedwarm.sparse.shrink import multiply_adds, shrunk

BATCH, TIMES = 32, 9


def load_small(path: Path, settings: Model | None = None) -> nn.Module:
    """The classifier out of a file that `fedwarm export` wrote as `torch`, with the units that it has left.

    Args:
        path: the file.
        settings: the architecture; what the file says if None.

    Raises:
        SettingError: it is no such file, or it does not fit the architecture.
    """
    return load_exported(path, settings, lambda model, header: shrunk(model, header.get(KEPT, {})))


@torch.no_grad()
def seconds_each(models: list[nn.Module], inputs: Form) -> list[float]:
    """Seconds that each model takes for one of a batch of inputs: medians of runs in which all take turns."""
    batch, taken = to_input(inputs.empty(BATCH)), [list[float]() for _ in models]
    for _ in range(TIMES + 1):
        for model, times in zip(models, taken, strict=True):
            begun = time.perf_counter()
            model.eval()(batch)
            times.append((time.perf_counter() - begun) / BATCH)
    return [statistics.median(times[1:]) for times in taken]


def beside(whole: nn.Module, small: nn.Module, inputs: Form) -> str:
    """What the small network has of the whole one: numbers, multiply-adds and time, measured here."""
    sizes = [sum(p.numel() for p in model.parameters()) for model in (small, whole)]
    work = [multiply_adds(model, inputs) for model in (small, whole)]
    times = [1000 * seconds for seconds in seconds_each([small, whole], inputs)]
    return (
        f"units without weights are left out: {sizes[0]:,} of {sizes[1]:,} numbers, {work[0]:,} of {work[1]:,} multiply-adds, "
        f"{times[0]:.4f} of {times[1]:.4f} ms {'an image' if inputs.pictures else 'an input'} here, in batches of {BATCH}"
    )

"""Hollowed Net's settings, and what becomes of adapters that clients trained at different depths.

Cho et al., "Hollowed Net for On-Device Personalization of Text-to-Image Diffusion Models", NeurIPS 2024, arXiv 2411.01179. The
paper trains on one device; a federation with depths of its own for each client is our reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedwarm.core.arrays import Arrays
from fedwarm.diffusion.lora import targets_of
from fedwarm.settings.fields import Group, SettingError, setting

AUTO, NONE = -1, -2
RULES = ("union", "intersect", "zero_fill")


def depths_of(run: Any) -> set[str]:
    """The depths of a run (`relevance.Run`), of `hollowed.depths` or `hollowed.depth`."""
    return {part.strip() for part in (str(run["hollowed.depths"]).strip() or str(run["hollowed.depth"])).split(",")}


@dataclass(frozen=True)
class Hollowed(Group, prefix="hollowed", used=lambda r: r.attaches):
    """Settings of hollowed fine-tuning."""

    depth: int = setting(
        AUTO,
        "pairs of U-Net layers removed from memory around the middle block; -1: the fewest that fit memory-budget-mb, or "
        "without a budget the most that leave 90 % of the adapter; -2: none, plain LoRA",
        low=NONE,
        when=lambda r: not str(r["hollowed.depths"]).strip(),
    )
    depths: str = setting("", "depths dealt to clients in turn, e.g. `0,2,-2`; empty: all have `depth`")
    cache: str = setting(
        "output", "stored tensors of the core; output: its output; residual: output minus input, where both have the same shape",
        choices=("output", "residual"),
    )  # fmt: skip
    cache_dtype: str = setting(
        "auto", "precision of the stored tensors; auto: float16 where the foundation computes in half precision",
        choices=("auto", "float32", "float16"),
    )  # fmt: skip
    tuples: int = setting(
        0, "number of noised images whose core outputs are stored and reused; 0: a new one for each step", low=0
    )
    memory_budget_mb: int = setting(
        0,
        "limit in MB on the estimated memory of training, by which depth -1 is chosen; 0: no limit; a node may have its "
        "own by --node-config",
        low=0,
        when=lambda r: str(AUTO) in depths_of(r),
        node=True,
    )
    mixed: str = setting(
        "union",
        "adapters that generate images where depths differ; union: each as it came; intersect: only the matrices that all "
        "clients train; zero_fill: each with zeros for the missing ones, which draws as `union`",
        choices=RULES,
        when=lambda r: len(depths_of(r)) > 1 or str(AUTO) in depths_of(r),
    )
    keep_cache: bool = setting(
        False, "true: keep the stored tensors on the client's disk after tuning; they reveal information about its images"
    )


def depth_of(settings: Hollowed, client: int) -> int:
    """The depth setting of one client, -2 and -1 included.

    Raises:
        SettingError: `depths` is no list of depths.
    """
    dealt = dealt_depths(settings)
    return dealt[client % len(dealt)]


def dealt_depths(settings: Hollowed) -> list[int]:
    """The depths that clients have in turn.

    Raises:
        SettingError: `depths` is no list of depths.
    """
    if not settings.depths.strip():
        return [settings.depth]
    try:
        dealt = [int(part) for part in settings.depths.split(",")]
    except ValueError:
        dealt = [NONE - 1]
    if min(dealt) < NONE:
        raise SettingError(f"hollowed.depths = {settings.depths!r} is not a list of depths; write e.g. '0,2,-2'")
    return dealt


def unsettled(settings: Hollowed, client: int) -> bool:
    """Whether only the client itself knows its depth: what fits its budget of memory depends on its own precision."""
    return depth_of(settings, client) == AUTO and settings.memory_budget_mb > 0


def aligned(adapters: Sequence[Arrays], rule: str) -> list[Arrays]:
    """The adapters with the keys that the rule leaves them, for use one by one.

    Args:
        rule: `union` leaves each its own; `intersect` the keys that all have; `zero_fill` gives all the keys of any, zero where a
            client has none, which is the foundation's own layer.

    Raises:
        ValueError: a shape differs between clients, or a layer has one matrix of two.
    """
    shapes = _shapes(adapters)
    if rule == "union":
        return [dict(adapter) for adapter in adapters]
    if rule == "intersect":
        return [{n: a for n, a in adapter.items() if all(n in other for other in adapters)} for adapter in adapters]
    return [{n: adapter[n] if n in adapter else np.zeros(*shapes[n]) for n in shapes} for adapter in adapters]


def _shapes(adapters: Sequence[Arrays]) -> dict[str, tuple[tuple[int, ...], np.dtype[np.generic]]]:
    shapes: dict[str, tuple[tuple[int, ...], np.dtype[np.generic]]] = {}
    for adapter in adapters:
        targets_of(adapter)
        for name, array in adapter.items():
            known = shapes.setdefault(name, (array.shape, array.dtype))
            if known[0] != array.shape:
                raise ValueError(f"{name} has shape {array.shape} at one client and {known[0]} at another; they need one rank")
    return shapes

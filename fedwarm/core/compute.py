"""How torch computes for a while: with so many threads, and on a GPU so that the same numbers come twice."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

WORKSPACE, FIXED = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Compute with so many threads in this process, and with as many as before afterwards: sums depend on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def repeatable(wanted: bool) -> Iterator[None]:
    """Compute with algorithms that give the same numbers twice on one GPU, and as before afterwards.

    An operation that has no such algorithm says so by a warning, and is done all the same. cuBLAS reads how much room it has
    when it is first used in a process, so where it was used before, its sums may differ in their last bits.

    Args:
        wanted: whether it is wanted, and there is a GPU; otherwise nothing is changed, as a CPU's algorithms do so anyway.
    """
    if not wanted:
        yield
        return
    os.environ.setdefault(WORKSPACE, FIXED)
    before, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    filled, tried = memory.fill_uninitialized_memory, torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True, warn_only=True)
    memory.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
        memory.fill_uninitialized_memory = filled
        torch.backends.cudnn.benchmark = tried

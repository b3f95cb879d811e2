"""What this process may use of the machine: cores by affinity and by its control groups' quotas, and memory.

A container's limits stand in control groups, of Linux' version 1 or 2, and every group above counts, too (Linux kernel
documentation, admin-guide/cgroup-v2 and cgroup-v1/memory, scheduler/sched-bwc).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from math import ceil
from pathlib import Path

from fedwarm.settings.fields import SettingError

LOG = logging.getLogger("fedwarm")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
CORES_VARIABLE = "FEDWARM_CORES"
WORKER_BYTES = 600 * 10**6
GB = 1e9
ROOT = Path("/")


def cores() -> int:
    """The cores this process may use, at least one, and no more than `FEDWARM_CORES`; a quota's part of a core counts as one.

    Raises:
        SettingError: `FEDWARM_CORES` is no whole number above 0.
    """
    affine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    told = os.environ.get(CORES_VARIABLE, "")
    if told and not (told.isascii() and told.isdigit() and int(told)):
        raise SettingError(f"{CORES_VARIABLE} = {told!r} in the environment must be a whole number above 0; correct or unset it")
    return max(1, min([affine, *map(ceil, _quotas()), *([int(told)] if told else [])]))


def free_bytes() -> int:
    """The memory that this process and its workers may still take."""
    import psutil  # type: ignore[import-untyped]

    return max(0, min([int(psutil.virtual_memory().available), *_rooms_bytes()]))


def threads_of(workers: int) -> int:
    """A worker's share of the cores, and no more than the environment allows."""
    limits = [int(os.environ[name]) for name in THREAD_VARIABLES if os.environ.get(name, "").isdigit()]
    return max(1, min([cores() // workers, *limits]))


def workers_for(clients: int, asked: int = 0, holds: int = 0) -> int:
    """The processes that `clients` clients are run in: as many as asked for, or (0) as cores and free memory are good for.

    Results do not depend on it. Fewer than there are cores, for want of memory, are told in one line.

    Args:
        clients, asked: numbers.
        holds: bytes of what each process, and this one, loads beside itself.

    Raises:
        SettingError: a negative number was asked for.
    """
    if asked < 0:
        raise SettingError(f"workers = {asked} is too few; 0 takes what cores and memory allow, 1 is the least")
    wanted = min(asked or cores(), clients)
    if asked or wanted == 1:
        return wanted
    free, each = free_bytes(), WORKER_BYTES + holds
    found = max(1, min(wanted, (free - holds) // each))
    if found < wanted:
        LOG.warning(
            "%d worker%s instead of %d: %.1f GB of memory are free and a worker takes about %.1f; --workers sets another number",
            found, "s" if found > 1 else "", wanted, free / GB, each / GB,
        )  # fmt: skip
    return found


def _quotas() -> Iterator[float]:
    """Cores that control groups grant, where they bound them."""
    for group in _groups("cpu"):
        text = _text(group / "cpu.max") or f"{_text(group / 'cpu.cfs_quota_us')} {_text(group / 'cpu.cfs_period_us')}"
        quota, _, period = text.partition(" ")
        if quota.isdigit() and period.isdigit() and int(period):
            yield int(quota) / int(period)


def _rooms_bytes() -> Iterator[int]:
    """What control groups leave of the memory that they grant; file pages that are not in use are given up when it is wanted."""
    for group in _groups("memory"):
        for limit, used, name in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.high", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            most, taken = _text(group / limit), _text(group / used)
            if most.isdigit() and taken.isdigit():
                pages = dict(line.partition(" ")[::2] for line in _text(group / "memory.stat").splitlines())
                yield int(most) - int(taken) + int(pages.get(name, 0))


def _groups(controller: str) -> Iterator[Path]:
    """The folders of the control groups that this process is in: its own, then each above it, of either version."""
    lines = [line.split(":", 2) for line in _text(ROOT / "proc/self/cgroup").splitlines()]
    second = next((path for _, kinds, path in lines if not kinds), None)
    first = next((path for _, kinds, path in lines if controller in kinds.split(",")), None)
    for line in _text(ROOT / "proc/self/mountinfo").splitlines():
        place, _, kind = line.partition(" - ")
        path = second if kind.startswith("cgroup2 ") else first
        if path is None or not (kind.startswith("cgroup2 ") or _mounts(kind, controller)):
            continue
        top, mount = (Path(part.replace("\\040", " ")) for part in place.split(" ")[3:5])
        inside = Path(path).relative_to(top) if Path(path).is_relative_to(top) and ".." not in path else Path()
        for part in (inside, *inside.parents):
            yield ROOT / mount.relative_to("/") / part


def _mounts(kind: str, controller: str) -> bool:
    """Whether the second half of a line of mountinfo is a file system of version 1 with this controller."""
    words = kind.split(" ")
    return words[0] == "cgroup" and controller in words[-1].split(",")


def _text(path: Path) -> str:
    """What stands in a small file; empty where there is none."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""

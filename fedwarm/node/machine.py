"""What a node finds of memory and disk, by the limits of its container too."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from fedwarm.core.capacity import GB, cores, free_bytes
from fedwarm.core.store import cache_home
from fedwarm.node.finding import Finding, fault, ok, warning
from fedwarm.node.heartbeat import VARIABLE, place
from fedwarm.settings.fields import SettingError

LEAST_MEMORY, GOOD_MEMORY = 0.7, 2.0
"""GB: a SuperNode, its SuperExec and one client with the smallest models; beside them an image model that is tuned."""
LEAST_DISK, GOOD_DISK = 0.5, 5.0
"""GB: messages and a client's state; `client-state-mb` keeps 4 of it by default."""


def look_at_machine() -> Iterator[Finding]:
    """One line for memory, one for each disk."""
    free = free_bytes() / GB
    told = f"{free:.1f} GB are free, {cores()} core{'s' if cores() > 1 else ''}"
    if free < LEAST_MEMORY:
        yield fault("memory", f"{told}; a node needs {LEAST_MEMORY:g} GB with the smallest models: free some, or raise its limit")
    elif free < GOOD_MEMORY:
        yield warning("memory", f"{told}; enough for small classifiers, not for tuning an image model ({GOOD_MEMORY:g} GB)")
    else:
        yield ok("memory", told)
    try:
        state = cache_home()
    except SettingError as error:
        yield fault("disk", str(error))
        return
    places = {"Flower's home": (place().parent, VARIABLE), "clients' state": (state, "XDG_CACHE_HOME, or client-folder")}
    for what, (folder, name) in places.items():
        yield _disk(what, folder, name)


def _disk(what: str, folder: Path, variable: str) -> Finding:
    there = next(each for each in (folder, *folder.parents) if each.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        return fault("disk", f"{what}, {folder}, cannot be written to by this user; permit it, or set {variable}")
    free = shutil.disk_usage(there).free / GB
    told = f"{what}, {folder}: {free:.1f} GB are free"
    if free < LEAST_DISK:
        return fault("disk", f"{told}; a node needs {LEAST_DISK:g} GB: make room, or set {variable}")
    return warning("disk", f"{told}; little for a run with large models") if free < GOOD_DISK else ok("disk", told)

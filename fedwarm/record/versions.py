"""What a run was made with: versions of packages, and the commit of a checkout."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from fedwarm.core import placement

PACKAGES = ("fedwarm", "flwr", "torch", "diffusers", "peft", "transformers", "numpy", "ray")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers."""
    return dict(_versions())


@lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def device(name: str, deterministic: bool, cohort: int) -> dict[str, str | bool | int]:
    """What this process computes on (`name`: `cpu`, or the GPU's model), and whether the same run gives the same bits again.

    Args:
        name, deterministic: the settings of these names.
        cohort: how many clients trained together; 0: none.
    """
    gpu = placement.on_gpu(name)
    return {"name": placement.title() if gpu else "cpu", "repeats": deterministic or not gpu, "cohort": cohort}


@lru_cache(maxsize=1)
def commit() -> str | None:
    """The commit of the checkout that this code lies in, with `+` where it was changed; None outside a checkout."""
    here = Path(__file__).parents[2]
    if not (here / ".git").exists():
        return None
    try:
        run = ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
        calm = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
        return subprocess.run(run, capture_output=True, text=True, timeout=10, check=True, env=calm).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None

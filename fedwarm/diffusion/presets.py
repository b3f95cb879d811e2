"""Settings that do well with a foundation of full size: the defaults are those of the small embedded one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from fedwarm.core.files import read_object
from fedwarm.diffusion.families import family_of, usual_family
from fedwarm.diffusion.hub import kept, named
from fedwarm.diffusion.pipeline import INDEX
from fedwarm.settings.fields import Value

FULL = 256  # pixels of a side from which on a foundation is one of full size


def foundation_presets(name: str) -> Mapping[str, Value]:
    """What a foundation sets where nobody says otherwise, by key; nothing where it is small, or embedded.

    Its files tell, in a folder or in the Hub's cache; a Hub name that is not on this machine yet counts as Stable Diffusion.
    """
    folder = folder_of(name)
    if folder is None:
        return usual_family().usual if named(name) else {}
    try:
        return _presets(folder, (folder / INDEX).stat().st_mtime_ns)
    except OSError:
        return {}


def folder_of(name: str) -> Path | None:
    """Where the files of a foundation that is not embedded are on this machine: its folder, or the Hub's cache; None: nowhere."""
    if Path(name).is_dir():
        return Path(name)
    return kept(name) if named(name) else None


@lru_cache(maxsize=8)
def _presets(folder: Path, changed: int) -> Mapping[str, Value]:
    family = family_of(read_object(folder / INDEX).get("_class_name"))
    if family is None:
        return {}
    halvings = len(read_object(folder / "vae" / "config.json").get("block_out_channels") or [0]) - 1
    side = read_object(folder / family.net / "config.json").get("sample_size")
    if side is None and halvings == 0:  # of the Hub's cache, which has no more of it yet
        return family.usual
    return family.usual if isinstance(side, int) and side << halvings >= FULL else {}

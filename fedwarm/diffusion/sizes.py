"""How large a foundation is, by the headers of its files: how many images a CPU draws together, and what holding it takes."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

from fedwarm.core.files import read_object
from fedwarm.diffusion.families import family_of
from fedwarm.diffusion.pipeline import folder_family, read_index, stem_of, variant_of
from fedwarm.diffusion.presets import folder_of

SMALL_NUMBERS = 2**24
EXACT_ROWS = 16
LARGE_ROWS = 1  # one image of Stable Diffusion takes a CPU minutes and gigabytes; more at a time would not be faster
LOADED_BYTES = 4  # of each weight while it is loaded, at most: files of half precision may take half


def exact_rows(numbers: int) -> int:
    """How many images a CPU draws together, always, by the number of weights of the part that denoises."""
    return EXACT_ROWS if numbers <= SMALL_NUMBERS else LARGE_ROWS


def rows_in(folder: Path) -> int:
    """The same of a pipeline's folder; of one whose files cannot be read, that of a small one."""
    try:
        return exact_rows(numbers_in(folder, folder_family(folder).net))
    except (OSError, ValueError):
        return EXACT_ROWS


def loaded_bytes(name: str) -> int:
    """What a process takes that loads a foundation by its setting; 0 where it is embedded, which is little, or not here yet."""
    folder = folder_of(name)
    family = None if folder is None else family_of((read_index(folder) or {}).get("_class_name"))
    if folder is None or family is None:
        return 0
    try:
        return LOADED_BYTES * sum(numbers_in(folder, part) for part in family.models)
    except (OSError, ValueError):
        return 0


def numbers_in(folder: Path, part: str) -> int:
    """Weights of a pipeline's model, out of its safetensors files' headers.

    Raises:
        OSError, ValueError: they are not there, or no such files.
    """
    variant = variant_of(folder, part)
    if variant is None:
        raise ValueError(f"{part} has no weights")
    dotted = f".{variant}" if variant else ""
    whole = f"{stem_of(part)}{dotted}.safetensors"
    listed = read_object(folder / part / f"{stem_of(part)}.safetensors.index{dotted}.json").get("weight_map", {})
    names = {whole} if (folder / part / whole).is_file() else {str(name) for name in listed.values()}
    return sum(_numbers(folder / part / name) for name in names)


def _numbers(path: Path) -> int:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size:  # e.g. a pointer of Git LFS, whose first bytes are letters
            raise ValueError(f"{path} is no safetensors file")
        header = json.loads(file.read(length))
    try:
        return sum(prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no safetensors file") from error

"""A pipeline of a known family out of its folder, whole or not at all.

A library that finds a weight under no name that it knows leaves the model's own at random and goes on. So every model of the
pipeline is loaded by itself, and what its loader did not find, or found and did not use, is refused by name.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from fedwarm.diffusion.families import ENCODER, Family, family_of, known_pipelines, usual_family
from fedwarm.settings.fields import SettingError

INDEX = "model_index.json"
LIBRARIES = ("diffusers", "transformers")
LEAST_TRANSFORMERS = "5.6"  # the first that knows the names of a text encoder's weights which it writes itself from then on
VARIANTS = ("", "fp16", "bf16", "fp32")  # in the order of preference; the first stands for the plain files
ANEW = """`python -c "from diffusers import DiffusionPipeline as P; P.from_pretrained('OLD').save_pretrained('NEW')"`"""
HALVES = {"F16": torch.float16, "BF16": torch.bfloat16}
BENIGN = ("position_ids",)  # positions 0, 1, .. that old versions kept as if they were weights
FAULTS = {"missing_keys": "missing", "unexpected_keys": "unknown", "mismatched_keys": "of another shape"}
SHOWN = 3


def read_pipeline(folder: Path, name: str) -> Any:
    """The pipeline, each model in the precision of its files, so that it takes no more memory than they do.

    Args:
        folder: what `save_pretrained` of a family's pipeline writes, with all its parts.
        name: the foundation as the settings have it, for errors.

    Raises:
        SettingError: a model's files are missing or not the whole model.
        OSError, ValueError, RuntimeError, SafetensorError: as the libraries have it; a file is broken.
    """
    import diffusers

    index = json.loads((folder / INDEX).read_text())
    family = family_in(index, name)
    parts = {part: _model(folder, part, index[part], name) for part in family.models}
    given: dict[str, Any] = {**parts, **family.without, **dict.fromkeys(family.arguments, False), "local_files_only": True}
    return getattr(diffusers, index["_class_name"]).from_pretrained(folder, use_safetensors=True, **given)


def hush() -> None:
    """Have libraries say nothing of what they load; what matters of it is refused in words of ours."""
    from diffusers.utils import logging
    from transformers.utils import logging as of_transformers

    logging.disable_progress_bar()
    of_transformers.disable_progress_bar()
    logging.set_verbosity_error()
    of_transformers.set_verbosity_error()


def read_index(folder: Path) -> dict[str, Any] | None:
    """What a pipeline's index says; None where it cannot be read."""
    try:
        known = json.loads((folder / INDEX).read_text())
    except (ValueError, OSError):
        return None
    return known if isinstance(known, dict) else None


def folder_family(folder: Path) -> Family:
    """The family of a pipeline in a folder."""
    return family_of((read_index(folder) or {}).get("_class_name")) or usual_family()


def family_in(index: Mapping[str, Any], name: str) -> Family:
    """The family of a pipeline by its index.

    Raises:
        SettingError: it is of none.
    """
    family = family_of(index.get("_class_name"))
    if family is None:
        raise SettingError(
            f"diffusion.foundation = {name!r} is a {index.get('_class_name')!r}; choose a foundation of one of the classes "
            f"{', '.join(known_pipelines())}"
        )
    return family


def _model(folder: Path, part: str, entry: Any, name: str) -> Any:
    """One model of the pipeline, complete."""
    library, kind = (str(word) for word in entry) if isinstance(entry, list) and len(entry) == 2 else ("", "")
    maker = getattr(importlib.import_module(library), kind, None) if library in LIBRARIES else None
    if maker is None:
        raise SettingError(
            f"diffusion.foundation = {name!r} is not a Stable Diffusion pipeline of diffusers' own classes: its "
            f"{part} is {entry!r}"
        )
    variant = see_weights(folder, part, name)
    model, told = maker.from_pretrained(
        folder,
        subfolder=part,
        dtype=kept_in(folder / part, variant),
        use_safetensors=True,
        variant=variant or None,
        local_files_only=True,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    refuse_partial(told, part, library, name)
    return model


def variant_of(folder: Path, part: str) -> str | None:
    """Which of a model's weights are loaded: the plain ones (an empty name), else those of a variant; None: there are none."""
    held = {path.name for path in (folder / part).iterdir()} if (folder / part).is_dir() else set()
    for variant in VARIANTS:
        dotted = f".{variant}" if variant else ""
        if {f"{stem_of(part)}{dotted}.safetensors", f"{stem_of(part)}.safetensors.index{dotted}.json"} & held:
            return variant
    return None


def kept_in(folder: Path, variant: str) -> torch.dtype:
    """The precision of a model's weights in its files; float32 where they differ or cannot be read, as the loader then says."""
    from safetensors import SafetensorError, safe_open

    files, kinds = [path for path in folder.glob("*.safetensors") if _variant_in(path.name) == variant], set[str]()
    for path in files:
        try:
            with safe_open(path, "pt") as held:
                kinds |= {held.get_slice(name).get_dtype() for name in held.keys()}  # noqa: SIM118
        except (SafetensorError, OSError):
            return torch.float32
    return HALVES[kinds.pop()] if len(kinds) == 1 and kinds <= set(HALVES) else torch.float32


def _variant_in(file: str) -> str:
    """The variant that a file's name says, as `model.fp16.safetensors` and `model.fp16-00001-of-00002.safetensors` do."""
    return next((variant for variant in VARIANTS if variant and f".{variant}" in file), "")


def stem_of(part: str) -> str:
    """What a model's file of weights is called before its first dot."""
    return "model" if part.startswith(ENCODER) else "diffusion_pytorch_model"


def see_weights(folder: Path, part: str, name: str) -> str:
    """The variant of a model's weights that is loaded, empty for the plain ones.

    Raises:
        SettingError: there are none that can be; pickled ones may run code, and are not read.
    """
    chosen = variant_of(folder, part)
    if chosen is not None:
        return chosen
    held = sorted(path.name for path in (folder / part).iterdir() if path.name != "config.json")
    start = f"diffusion.foundation = {name!r} could not be loaded: {part} holds"
    if pickled := [file for file in held if file.endswith((".bin", ".ckpt", ".pt", ".pth"))]:
        raise SettingError(
            f"{start} pickled weights only ({pickled[0]}), which are not read, as they may run code; where you trust them, write "
            f"them as safetensors by {ANEW}, and give NEW"
        )
    there = f" but {', '.join(held[:SHOWN])}" if held else ""
    raise SettingError(f"{start} no weights{there}; it needs {stem_of(part)}.safetensors or {stem_of(part)}.fp16.safetensors")


def refuse_partial(told: Mapping[str, Any], part: str, library: str, name: str) -> None:
    """Refuse a model by what its loader says of it.

    Args:
        told: `missing_keys`, `unexpected_keys`, `mismatched_keys` and `error_msgs` of `from_pretrained`.
        part: the model's place in the pipeline.
        library: who loaded it.
        name: the foundation as the settings have it.

    Raises:
        SettingError: a weight was not in the files, or one in the files is not the model's.
    """
    wrong = [_counted(keys, what) for key, what in FAULTS.items() if (keys := _names(told.get(key) or ()))]
    wrong += [str(error).splitlines()[0] for error in told.get("error_msgs") or () if str(error).strip()]
    if not wrong:
        return
    have, remedy = version(library), "give the complete pipeline, as `save_pretrained` writes it"
    if library == "transformers" and _numbers(have) < _numbers(LEAST_TRANSFORMERS):
        remedy = f"install transformers>={LEAST_TRANSFORMERS}"
    raise SettingError(
        f"diffusion.foundation = {name!r} could not be loaded: of {part}, {' and '.join(wrong)} by {library} {have}; {remedy}"
    )


def _counted(keys: list[str], what: str) -> str:
    named = ", ".join(keys[:SHOWN]) + (", .." if len(keys) > SHOWN else "")
    return f"{len(keys)} weights are {what} ({named})" if len(keys) > 1 else f"{named} is {what}"


def _names(keys: Iterable[Any]) -> list[str]:
    """Names of weights in order; of a weight that does not fit, its name alone."""
    plain = {str(key[0]) if isinstance(key, tuple) else str(key) for key in keys}
    return sorted(key for key in plain if key.rpartition(".")[2] not in BENIGN)


def _numbers(text: str) -> tuple[int, ...]:
    """The leading numbers of a version."""
    return tuple(int(number) for number in text.split(".")[:2] if number.isdigit())

"""What decides a generated image beside its owner, class and index: as facts to keep with it, and as a digest to find it by.

The foundation is known by its files, without loading it: a client whose images are on its shelf starts as fast as one without.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fedwarm.augmentations.gen_fedsd.amounts import GenFedSD
from fedwarm.data.settings import Data
from fedwarm.diffusion.foundation import load_foundation, locate, precision_of
from fedwarm.diffusion.hub import fetched
from fedwarm.diffusion.pipeline import folder_family
from fedwarm.diffusion.sentences import Wording, sentences
from fedwarm.diffusion.settings import Diffusion
from fedwarm.diffusion.sizes import EXACT_ROWS, rows_in
from fedwarm.models import Model, device_of, own_settings_of
from fedwarm.pretrained.reading import file_of
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError

FORMAT = 1
KEY_DIGITS = 32
OWN_NORM = "own"
RESIZE = "bicubic"  # shelves were named without it before there was a choice
HEAD_BYTES = 1024
CONTENT = (".json", ".txt", ".safetensors")


def sampler(config: Config) -> Diffusion:
    """The sampler of synthesis: `diffusion.*` with the guidance and steps of `gen-fedsd.*` where those are set."""
    own, base = config.of(GenFedSD), config.of(Diffusion)
    return replace(base, guidance=own.guidance or base.guidance, sample_steps=own.steps or base.sample_steps)


def wording(config: Config) -> Wording:
    """How the foundation is asked, by `gen-fedsd.*`."""
    own = config.of(GenFedSD)
    prompt = own.prompt if own.prompt_mode == "single" else ""
    return Wording(prompt, own.prompts_file, own.phrases, f"{GenFedSD.prefix}.")


def identity(config: Config, classes: Sequence[str]) -> dict[str, Any]:
    """Everything that decides an image of (owner, class, index), as JSON.

    Raises:
        SettingError: the foundation, the sentences or the judge cannot be used.
    """
    own, diffusion, run = config.of(GenFedSD), sampler(config), config.run
    folder, device = foundation_folder(diffusion, run.device), device_of(run.device).type
    judge = None
    if own.judge:
        known = config.of(Model)
        judge = {"file": file_digest(own.judge), "model": known.name, "least": own.judge_least}
        if known.norm != OWN_NORM:  # shelves were named without it before judges were told apart by it
            judge["norm"] = known.norm
        if more := own_settings_of(known):
            judge["settings"] = more
    resize: dict[str, Any] = {} if diffusion.resize == RESIZE else {"resize": diffusion.resize}
    if device == "cpu" and (rows := rows_in(folder)) != EXACT_ROWS:
        resize["rows"] = rows
    if diffusion.image_size:
        resize["image-size"] = diffusion.image_size
    return {
        "format": FORMAT,
        "foundation": pipeline_digest(folder),
        "device": device,
        "threads": run.client_threads if device == "cpu" else 0,
        "precision": precision_of(diffusion, device),
        "scheduler": diffusion.scheduler,
        "steps": diffusion.sample_steps,
        "guidance": diffusion.guidance,
        "size": config.of(Data).image_size,
        "seed": run.seed,
        "judge": judge,
        "tries": own.judge_tries,
        "prompts": sentences(wording(config), diffusion.foundation, folder, classes),
        **resize,
    }


def key_of(facts: Mapping[str, Any]) -> str:
    """The shelf's name, 32 hexadecimal digits."""
    return sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:KEY_DIGITS]


def provenance(facts: Mapping[str, Any], config: Config, classes: Sequence[str], label: int) -> dict[str, Any]:
    """The same for people and for one class, with names and versions that do not enter the digest."""
    versions = {name: version(name) for name in ("torch", "diffusers")}
    own = {"prompts": facts["prompts"][label], "name": classes[label]}
    return {**facts, **own, "model": config.of(Diffusion).foundation, "versions": versions}


def foundation_folder(diffusion: Diffusion, device: str) -> Path:
    """Where the foundation's files lie; what is missing of a Hub model on this machine is downloaded.

    Raises:
        SettingError: it cannot be had.
    """
    where = locate(diffusion.foundation)
    if Path(where).is_dir():
        return Path(where)
    try:
        return fetched(where)
    except (OSError, ValueError) as error:
        if not isinstance(error, SettingError):
            load_foundation(diffusion, device)  # which says it in one line
        raise


def pipeline_digest(folder: Path) -> str:
    """SHA-256 over a pipeline's configurations, vocabularies and weights; of each tensor its name, type, shape and first KiB."""
    digest = sha256()
    for part in sorted(folder_family(folder).parts):
        for path in sorted((folder / part).iterdir() if (folder / part).is_dir() else ()):
            if path.suffix in CONTENT:
                digest.update(f"{part}/{path.name}\0".encode())
                digest.update(_heads(path) if path.suffix == ".safetensors" else path.read_bytes())
    return digest.hexdigest()


def _heads(path: Path) -> bytes:
    """A safetensors file's header and the beginning of every tensor."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(min(length, path.stat().st_size))
        try:
            tensors = {name: entry["data_offsets"] for name, entry in json.loads(header).items() if name != "__metadata__"}
        except (ValueError, TypeError, KeyError) as error:
            raise SettingError(f"{path} is not a safetensors file; download or save the foundation again") from error
        out = [header]
        for _, (start, end) in sorted(tensors.items()):
            file.seek(8 + length + start)
            out.append(file.read(min(HEAD_BYTES, end - start)))
    return b"".join(out)


def file_digest(place: str) -> str:
    """SHA-256 of a judge's file.

    Raises:
        SettingError: there is no such file.
    """
    try:
        return sha256(file_of(place).read_bytes()).hexdigest()
    except SettingError as error:
        raise SettingError(f"gen-fedsd.judge = {place!r} {error}") from error

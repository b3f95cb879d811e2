"""Clients' adapters as files, a folder a client: as `pipe.load_lora_weights` reads them, and to draw images from again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fedwarm.core.arrays import Arrays, from_tensors, to_tensors
from fedwarm.diffusion.lora import FILE, FOUNDATION, TOLD, save_adapter
from fedwarm.diffusion.settings import Diffusion
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError

if TYPE_CHECKING:
    from fedwarm.diffusion.tuners import Parts

ADAPTERS, FOLDER = "adapters", "client-"  # of a run, and a client's in it


def adapter_file(run: Path, client: int) -> Path:
    """Where the adapter that a client sent in a run lies, if it sent one."""
    return run / ADAPTERS / f"{FOLDER}{client}" / FILE


def save_adapters(run: Path, sent: Mapping[int, Arrays], parts: Parts) -> None:
    """Write each client's own matrices, as it sent them, into a run's folder."""
    own, foundation = parts.settings, parts.foundation
    for client, arrays in sent.items():
        place, targets = adapter_file(run, client).parent, parts.attaching(arrays).targets
        save_adapter(place, to_tensors(arrays), own.rank, own.alpha, targets, foundation.family, foundation.fingerprint)


def check_adapters(folder: Path, config: Config, clients: int) -> None:
    """See, without the foundation, that a folder holds adapters of these settings for such clients.

    Raises:
        SettingError: it does not, or they cannot be read.
    """
    settings = config.of(Diffusion)
    for client, path in _files(folder):
        if client >= clients:
            raise SettingError(f"{path.parent} is of client {client}, and here are {clients}; name a run of the same clients")
        told = _told(path)
        for key, said, wanted in (("rank", "r", settings.rank), ("alpha", "lora_alpha", settings.alpha)):
            if told.get(said) != wanted:
                raise SettingError(f"{path} has {key} {told.get(said)}, not {wanted}; set diffusion.{key} = {told.get(said)}")


def read_adapters(folder: Path, parts: Parts) -> dict[int, Arrays]:
    """The matrices in a folder, by client, as each of them sent them.

    Raises:
        SettingError: they cannot be read, or are not of this foundation and these settings.
    """
    return {client: _read(path, client, parts) for client, path in _files(folder)}


def _read(path: Path, client: int, parts: Parts) -> Arrays:
    from safetensors.torch import load_file

    if _told(path).get(FOUNDATION) != parts.foundation.fingerprint:
        raise SettingError(f"{path} was tuned on another foundation; set diffusion.foundation to the one of its run")
    family = parts.foundation.family
    saved: dict[str, Tensor] = {name.removeprefix(f"{family.net}."): t for name, t in load_file(path).items()}
    arrays = from_tensors(dict(sorted(family.loaded(saved).items())))
    try:
        wanted = parts.answered(client, arrays)
    except ValueError as error:
        raise SettingError(f"{path} is no adapter of these settings: {error}; take diffusion.* of its run") from None
    matrices = {name: wanted[name].shape for name in wanted if name in parts.matrices}
    if {name: array.shape for name, array in arrays.items()} != matrices:
        raise SettingError(f"{path} has matrices of other layers or shapes; take diffusion.targets and diffusion.rank of its run")
    return arrays


def _files(folder: Path) -> Iterator[tuple[int, Path]]:
    """The clients' files in their order."""
    found = {int(name): path for path in folder.glob(f"{FOLDER}*/{FILE}") if (name := path.parent.name[len(FOLDER) :]).isdigit()}
    if not found:
        raise SettingError(f"no clients' adapters are in {folder}; name RUN/adapters")
    yield from sorted(found.items())


def _told(path: Path) -> dict[str, Any]:
    """An adapter's rank `r`, `lora_alpha` and foundation, as its file says them."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            told = file.metadata() or {}
        own = json.loads(told.get(TOLD, "{}"))
    except (OSError, SafetensorError, ValueError) as error:
        raise SettingError(f"{path} cannot be read as an adapter ({error}); name another run's") from error
    return {FOUNDATION: told.get(FOUNDATION), **{name.rpartition(".")[2]: value for name, value in own.items()}}

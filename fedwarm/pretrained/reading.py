"""Named tensors out of a file of weights: safetensors, or what `torch.save` wrote of tensors; by path or name on the Hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedwarm.core.network import hub_answers
from fedwarm.settings.fields import SettingError

HUB = "hub:"
USUAL_FILES = ("model.safetensors", "pytorch_model.bin")
WITHIN = ("state_dict", "model", "model_state_dict")
TORCHS = (b"PK\x03\x04", b"\x80")  # a zip archive, or the older format: a pickle
HEADER = b"{"  # what safetensors have after eight bytes of its length


def tensors_of(place: str) -> dict[str, Tensor]:
    """The tensors of a file, on the CPU, by name.

    Args:
        place: as of `file_of`.

    Raises:
        SettingError: there is no such file, or it holds no named tensors; the message does not name the place.
    """
    path = file_of(place)
    with path.open("rb") as file:
        begun = file.read(9)
    found = _of_torch(path) if begun.startswith(TORCHS) and begun[8:] != HEADER else _of_safetensors(path)
    odd = [name for name, t in found.items() if t.layout != torch.strided or t.is_quantized or t.is_complex()]
    if odd:
        raise SettingError(f"holds {', '.join(odd[:5])} as sparse, quantized or complex numbers; save dense real ones")
    return found


def file_of(place: str) -> Path:
    """The file of weights that is meant by a path, `hub:owner/name` or `hub:owner/name/file`.

    Raises:
        SettingError: there is none; the message does not name the place.
    """
    path = _of_hub(place.removeprefix(HUB)) if place.startswith(HUB) else Path(place).expanduser()
    if not path.is_file():
        raise SettingError("is no file; give a safetensors file of a classifier's state, one of torch.save, or hub:owner/name")
    return path


def _of_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found: dict[str, Tensor] = load_file(path)
    except (SafetensorError, ValueError, OSError) as error:
        raise SettingError(f"is neither a safetensors file nor one of torch.save ({one_line(error)}); save it anew") from error
    return found


def _of_torch(path: Path) -> dict[str, Tensor]:
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle's, zip's and torch's own
        raise SettingError(
            "holds more than tensors, or is damaged, and is not loaded, as a pickle may run code; save the model's state_dict() "
            "by safetensors.torch.save_file or torch.save"
        ) from error
    return _state(held)


def _state(held: Any) -> dict[str, Tensor]:
    """The named tensors within what was saved: itself, or what it holds under one of the usual names."""
    inside = next((held[name] for name in WITHIN if isinstance(held, Mapping) and isinstance(held.get(name), Mapping)), held)
    if not isinstance(inside, Mapping) or not inside:
        raise SettingError(f"holds no named tensors, but {type(held).__name__}; save the model's state_dict()")
    other = [str(name) for name, value in inside.items() if not isinstance(value, Tensor)]
    if other:
        raise SettingError(f"holds {', '.join(other[:5])}, which are no tensors; save the model's state_dict()")
    return {str(name): value for name, value in inside.items()}


def _of_hub(name: str) -> Path:
    """A file of a model's repository on the Hub, out of its cache, or downloaded once."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    owner, _, rest = name.partition("/")
    model, _, file = rest.partition("/")
    if not owner or not model:
        raise SettingError("names no model of the Hub; give hub:owner/name, or hub:owner/name/file")
    repository, files = f"{owner}/{model}", (file,) if file else USUAL_FILES
    try:
        found = [try_to_load_from_cache(repository, each) for each in files]
    except ValueError as error:
        raise SettingError(
            f"names no model of the Hub: {one_line(error)}; give hub:owner/name, or hub:owner/name/file"
        ) from error
    if kept := next((each for each in found if isinstance(each, str)), None):
        return Path(kept)
    if not hub_answers():
        raise SettingError("cannot be had: the Hub does not answer, and no copy is kept on this machine; give the path of a file")
    for each in files:
        try:
            return Path(hf_hub_download(repository, each))
        except Exception as error:  # the Hub client's, of the network and of the disk
            reason = error
    raise SettingError(f"cannot be had from the Hub: {one_line(reason)}") from reason


def one_line(error: Exception) -> str:
    """An error's text in one line of moderate length."""
    return " ".join(str(error).split())[:300] or type(error).__name__

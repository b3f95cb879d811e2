"""What a client keeps for later rounds: named tensors on its own disk, one folder per run and partition, never sent."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor


def cache_home() -> Path:
    """The user's cache folder for client state."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedwarm" / "clients"


class Store:
    """Tensors by name in one folder, readable by its owner only; each file is written whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write `<name>.safetensors` under a temporary name, then rename it."""
        from safetensors.torch import save_file

        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = self.folder / f".{name}.{os.getpid()}"
        save_file({k: t.detach().cpu().contiguous().clone() for k, t in tensors.items()}, temporary)
        temporary.chmod(0o600)
        os.replace(temporary, self.folder / f"{name}.safetensors")

    def load(self, name: str) -> dict[str, Tensor] | None:
        """The tensors saved under `name`, or None."""
        from safetensors.torch import load_file

        path = self.folder / f"{name}.safetensors"
        return load_file(path) if path.is_file() else None

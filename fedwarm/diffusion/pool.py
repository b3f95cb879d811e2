"""The pool of generated images, each with its provenance; it stays where it was made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fedwarm.core.files import replacing
from fedwarm.settings.fields import SettingError

PARTS = ("images", "labels", "clients", "seeds")


@dataclass(frozen=True)
class Pool:
    """Generated images and where each came from.

    Attributes:
        images: uint8 (n, 3, S, S).
        labels: int64 (n,), the class that the prompt named.
        clients: int64 (n,), whose adapter drew it.
        seeds: int64 (n,), the seed of its noise.
        prompts: one sentence per class, of the first style, then of the next (see `asking.of_client`).
    """

    images: Tensor
    labels: Tensor
    clients: Tensor
    seeds: Tensor
    prompts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def of_client(self, client: int) -> tuple[Tensor, Tensor]:
        """Images and labels that a client's adapter drew."""
        chosen = self.clients == client
        return self.images[chosen], self.labels[chosen]

    def tensors(self) -> dict[str, Tensor]:
        """Everything but the prompts, by name."""
        return {name: getattr(self, name) for name in PARTS}

    def save(self, path: Path) -> None:
        """Write the pool as one safetensors file with its prompts, whole or not at all, readable by its owner only."""
        from safetensors.torch import save_file

        with replacing(path, private=True) as temporary:
            save_file(self.tensors(), temporary, metadata={"prompts": json.dumps(self.prompts)})


def read_pool(path: Path, sentences: Sequence[str]) -> Pool:
    """A pool that an earlier run drew, for the sentences of this one, if they are known.

    Raises:
        SettingError: the file cannot be read, is no pool, or was drawn from other sentences.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            said = _told((file.metadata() or {}).get("prompts", ""))
            tensors = {name: file.get_tensor(name) for name in PARTS}
    except (OSError, SafetensorError) as error:
        raise SettingError(f"no pool of images can be read from {path} ({error}); name RUN/pool/pool-0.safetensors") from error
    if sentences and said != list(sentences):
        old, new = next(((a, b) for a, b in zip(said, sentences, strict=False) if a != b), (said[-1], sentences[-1]))
        raise SettingError(f"{path} is of other classes or another prompt: {old!r}, not {new!r}; name another")
    return Pool(**tensors, prompts=tuple(said))


def _told(text: str) -> list[str]:
    """Sentences as JSON; as lines, where an older run wrote them."""
    return [str(each) for each in json.loads(text)] if text.startswith("[") else text.split("\n")


def check_pool(path: Path, sentences: Sequence[str], clients: int, side: int) -> None:
    """See that images of an earlier run are those of so many clients, at so many pixels.

    Raises:
        SettingError: they are not, or cannot be read.
    """
    pool = read_pool(path, sentences)
    found, most = pool.images.shape[-1], int(pool.clients.max())
    if found != side or most >= clients:
        raise SettingError(
            f"{path} has images of {found} pixels for {most + 1} clients or more; here are {clients} clients and {side} pixels: "
            "name a run of the same ones"
        )


def join(pools: Sequence[Pool]) -> Pool:
    """One pool of several with the same prompts."""
    return Pool(
        torch.cat([p.images for p in pools]),
        torch.cat([p.labels for p in pools]),
        torch.cat([p.clients for p in pools]),
        torch.cat([p.seeds for p in pools]),
        pools[0].prompts,
    )

"""The pool of generated images, each with its provenance; it stays where it was made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fedwarm.core.files import replacing


@dataclass(frozen=True)
class Pool:
    """Generated images and where each came from.

    Attributes:
        images: uint8 (n, 3, S, S).
        labels: int64 (n,), the class that the prompt named.
        clients: int64 (n,), whose adapter drew it.
        seeds: int64 (n,), the seed of its noise.
        prompts: one sentence per class.
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
        return {"images": self.images, "labels": self.labels, "clients": self.clients, "seeds": self.seeds}

    def save(self, path: Path) -> None:
        """Write the pool as one safetensors file with its prompts, whole or not at all, readable by its owner only."""
        from safetensors.torch import save_file

        with replacing(path, private=True) as temporary:
            save_file(self.tensors(), temporary, metadata={"prompts": "\n".join(self.prompts)})


def join(pools: Sequence[Pool]) -> Pool:
    """One pool of several with the same prompts."""
    return Pool(
        torch.cat([p.images for p in pools]),
        torch.cat([p.labels for p in pools]),
        torch.cat([p.clients for p in pools]),
        torch.cat([p.seeds for p in pools]),
        pools[0].prompts,
    )

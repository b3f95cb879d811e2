"""Images of a class as they are drawn and kept: pixels, and how each came to be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

DRAWS = "synthesis"  # of generators, and the name under which progress is told
POOL = "pool"
Owner = int | str


@dataclass(frozen=True)
class Drawn:
    """Images of one class, and how each came to be.

    Attributes:
        images: uint8 (m, 3, S, S).
        indices: int64 (m,), of the owner's images of the class.
        seeds: int64 (m,), of the noise of the draw that stayed.
        prompts: int64 (m,), which of the class's sentences.
        tries: int64 (m,), how often it was drawn.
        scores: float32 (m,), the judge's probability of the class; 1 without a judge, -1 for a blank picture.
        seconds: float32 (m,), what drawing it took.
    """

    images: Tensor
    indices: Tensor
    seeds: Tensor
    prompts: Tensor
    tries: Tensor
    scores: Tensor
    seconds: Tensor

    def __len__(self) -> int:
        return len(self.indices)

    def rows(self, chosen: Sequence[int]) -> Drawn:
        """Some of them, in the order asked, as copies."""
        which = torch.tensor(chosen, dtype=torch.long)
        return Drawn(*(getattr(self, f.name)[which] for f in fields(self)))

    def tensors(self) -> dict[str, Tensor]:
        """The columns by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @staticmethod
    def none(size: int) -> Drawn:
        """No image of S x S pixels."""
        whole, real = torch.empty(0, dtype=torch.int64), torch.empty(0)
        return Drawn(torch.empty(0, 3, size, size, dtype=torch.uint8), whole, whole, whole, whole, real, real)

    @staticmethod
    def join(parts: Sequence[Drawn]) -> Drawn:
        """One after the other; at least one."""
        return Drawn(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(parts[0])))


def plain(images: Tensor, indices: Sequence[int]) -> Drawn:
    """Images that no noise made, as drawn once and not judged."""
    n = len(indices)
    zeros, ones = torch.zeros(n, dtype=torch.int64), torch.ones(n, dtype=torch.int64)
    return Drawn(images, torch.tensor(indices, dtype=torch.int64), zeros, zeros, ones, torch.ones(n), torch.zeros(n))

"""What one input of a data set looks like, by which models are built and clients agree: shape, dtype, and of text its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PICTURE, REAL, WHOLE = DTYPES = ("uint8", "float32", "int64")


@dataclass(frozen=True)
class Form:
    """One input without the batch's axis.

    Attributes:
        shape: e.g. (3, S, S) of pictures, (30,) of a table's row, (T,) of T tokens of a text.
        dtype: `uint8`, brought to -1 .. 1 before a model sees it; `float32` and `int64`, which it sees as they are.
        vocabulary: of int64, how many different values there are, 0 and up; 0: not told.
        columns: of a table's row, what its numbers are called.
    """

    shape: tuple[int, ...]
    dtype: str = PICTURE
    vocabulary: int = 0
    columns: tuple[str, ...] = ()

    @classmethod
    def picture(cls, size: int) -> Form:
        """Of RGB pictures."""
        return cls((3, size, size))

    @classmethod
    def at(cls, inputs: Form | int) -> Form:
        """The form; of a number, RGB pictures of that side."""
        return cls.picture(inputs) if isinstance(inputs, int) else inputs

    @classmethod
    def of(cls, inputs: Tensor, vocabulary: int = 0, columns: tuple[str, ...] = ()) -> Form:
        """Of a batch (n, *shape)."""
        return cls(tuple(inputs.shape[1:]), str(inputs.dtype).removeprefix("torch."), vocabulary, columns)

    @property
    def pictures(self) -> bool:
        """Whether these are square RGB pictures."""
        return self.dtype == PICTURE and len(self.shape) == 3 and self.shape[0] == 3 and self.shape[1] == self.shape[2]

    @property
    def side(self) -> int:
        """Height and width of pictures; 0 of anything else."""
        return self.shape[-1] if self.pictures else 0

    def empty(self, count: int = 0, device: torch.device | None = None) -> Tensor:
        """So many inputs of zeros (count, *shape)."""
        import torch

        return torch.zeros(count, *self.shape, dtype=getattr(torch, self.dtype), device=device)

    def __str__(self) -> str:
        if self.pictures:
            return f"pictures of {self.side} x {self.side} pixels"
        return f"{self.dtype} inputs of shape {self.shape}"

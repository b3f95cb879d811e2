"""Small data of other kinds than pictures, and models for them, as a user's own module: `data.name = tests.tabular:numbers`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fedwarm.settings.fields import Value

N, T, LETTERS = 48, 6, 5
USUAL: dict[str, Value] = {
    "num-server-rounds": 2, "local-epochs": 1, "server-threads": 1, "data.partition": "iid", "learning-rate": 0.02,
    "momentum": 0.0, "batch-size": 8,
}  # fmt: skip


def _table() -> Tensor:
    return torch.randn(N, 4, generator=torch.Generator().manual_seed(5))


def numbers() -> tuple[Any, Any]:
    """A row's number is linear in its columns."""
    x = _table()
    return x, x @ torch.tensor([2.0, -1.0, 0.5, 0.0]) + 1


def labels() -> tuple[Any, Any]:
    """Three labels, by the signs of three columns."""
    x = _table()
    return x, (x[:, :3] > 0).float()


def text() -> tuple[Any, Any]:
    """Letters that mostly follow each other in order."""
    start = torch.arange(N) % LETTERS
    line = (start[:, None] + torch.arange(T + 1)) % LETTERS
    return line[:, :-1], line[:, 1:]


def rows(outputs: int, shape: tuple[int, ...]) -> nn.Module:
    """Two layers on a row."""
    return nn.Sequential(nn.Linear(shape[0], 6), nn.Tanh(), nn.Linear(6, outputs))


def normed(outputs: int, shape: tuple[int, ...]) -> nn.Module:
    """Two layers on a row, with batch normalisation between them."""
    return nn.Sequential(nn.Linear(shape[0], 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, outputs))


def letters(outputs: int, vocabulary: int) -> nn.Module:
    """What follows a letter, by its embedding."""
    return nn.Sequential(nn.Embedding(vocabulary, 4), nn.Tanh(), nn.Linear(4, outputs))


CASES: dict[str, dict[str, Value]] = {
    "regression": {**USUAL, "task": "regression", "data.name": "tests.tabular:numbers", "model.name": "tests.tabular:rows"},
    "multilabel": {**USUAL, "task": "multilabel", "data.name": "tests.tabular:labels", "model.name": "tests.tabular:rows"},
    "language": {**USUAL, "task": "language", "data.name": "tests.tabular:text", "model.name": "tests.tabular:letters"},
}

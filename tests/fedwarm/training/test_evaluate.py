"""Measures of a classifier."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fedwarm.models import to_input
from fedwarm.models.cnn import cnn
from fedwarm.record.reading import worst_tenth
from fedwarm.training.evaluate import correct, predict


class ByBrightness(nn.Module):
    """Says class 1 for images brighter than grey, else class 0; drops out everything in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.dropout = nn.Dropout(1.0)

    def forward(self, x: Tensor) -> Tensor:
        bright = self.dropout(x.mean((1, 2, 3)) * self.scale)
        return torch.stack([-bright, bright], 1)


def images(n: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (n, 3, 8, 8), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def test_predictions_do_not_depend_on_the_batches() -> None:
    model, x = cnn(5, 8), images(23)
    whole = predict(model, x)
    assert whole.shape == (23, 5) and not whole.requires_grad
    torch.testing.assert_close(predict(model, x, batch_size=4), whole, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(model(to_input(x)), whole, rtol=0, atol=0)


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_mode_and_back(training: bool) -> None:
    model, x = ByBrightness().train(training), images(6)
    assert predict(model, x).abs().sum() > 0
    assert model.training is training and model.dropout.training is training


def test_right_answers_are_counted() -> None:
    grey = torch.tensor([0, 100, 127, 128, 200, 255], dtype=torch.uint8)
    x = grey[:, None, None, None].expand(-1, 3, 8, 8)
    assert correct(ByBrightness(), x, torch.tensor([0, 0, 0, 1, 1, 1])) == 6
    assert correct(ByBrightness(), x, torch.tensor([1, 0, 1, 1, 0, 1])) == 3


@pytest.mark.parametrize(
    ("accuracies", "wanted"),
    [([0.5], 0.5), ([0.9, 0.2, 0.8], 0.2), ([i / 20 for i in range(20)][::-1], 0.025), ([1.0] * 10 + [0.0] * 9, 0.0)],
)
def test_worst_tenth(accuracies: list[float], wanted: float) -> None:
    assert worst_tenth(accuracies) == pytest.approx(wanted, abs=1e-12)


def test_of_nothing_nothing_is_known() -> None:
    assert worst_tenth([]) is None and worst_tenth([None]) is None
    none = torch.empty(0, 3, 8, 8, dtype=torch.uint8)
    assert correct(torch.nn.Identity(), none, torch.empty(0, dtype=torch.int64)) == 0

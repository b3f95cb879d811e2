"""What a layer is given, by place or by name, is seen and changed before it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedwarm.core.before import before


class Sum(torch.nn.Module):
    def forward(self, x: Tensor, more: int = 0) -> Tensor:
        return x + more


@pytest.mark.parametrize("named", [False, True])
def test_an_input_is_seen_and_changed_whatever_it_is_called(named: bool) -> None:
    layer, seen = Sum(), list[Tensor]()
    given = torch.ones(2)

    def called() -> list[float]:
        found: Tensor = layer(x=given, more=5) if named else layer(given, 5)
        return found.tolist()

    looking = before(layer, lambda _, x: seen.append(x))
    assert called() == [6, 6] and seen[0] is given
    looking.remove()
    changing = before(layer, lambda _, x: 10 * x)
    assert called() == [15, 15]
    changing.remove()
    assert called() == [6, 6]

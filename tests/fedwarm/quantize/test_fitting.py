"""A model in which nothing would be quantized is refused before a run, as all of its numbers would be the float model's."""

from __future__ import annotations

import pytest

from fedwarm.launch.preflight import check_run
from fedwarm.settings.fields import SettingError, Value

ENDS = r"model 'logistic' has 1 convolutions and linear layers, of which the first and the last stay float; quantize these, too"


@pytest.mark.parametrize("name", ["qat", "mqat", "apqn", "kure"])
def test_an_objective_needs_a_layer(name: str) -> None:
    given: dict[str, Value] = {"method": "fedavg", "objective": name, "model.name": "logistic"}
    check_run(given, 2)
    with pytest.raises(SettingError, match=f"objective '{name}' finds nothing to quantize: {ENDS}"):
        check_run({**given, "quantization-robust.skip-first-last": True}, 2)


def test_so_do_relaxed_quantization_and_what_is_measured() -> None:
    relaxed: dict[str, Value] = {"method": "fedavg", "objective": "rq", "model.name": "logistic"}
    with pytest.raises(SettingError, match=f"objective 'rq' finds nothing to quantize: {ENDS}"):
        check_run({**relaxed, "relaxed-quantization.layers": "skip_first_last"}, 2)
    measured: dict[str, Value] = {"method": "fedavg", "model.name": "logistic", "quantization-robust.skip-first-last": True}
    with pytest.raises(SettingError, match=f"evaluate.bit-widths finds nothing to quantize: {ENDS}"):
        check_run({**measured, "evaluate.bit-widths": "4"}, 2)
    with pytest.raises(SettingError, match=r"nothing to quantize: model 'tests.fedwarm.quantize.test_fitting:bare' has no conv"):
        check_run({"method": "fedavg", "model.name": "tests.fedwarm.quantize.test_fitting:bare", "evaluate.bit-widths": "4"}, 2)


def bare(classes: int, size: int) -> object:
    """The mean of each colour, by a matrix of its own."""
    import torch
    from torch import nn

    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3, classes))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean((2, 3)) @ self.weight

    return Bare()

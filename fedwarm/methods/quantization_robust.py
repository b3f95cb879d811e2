"""FedAvg whose one model stays good at every bit-width: Gupta et al., "Quantization Robust Federated Learning for Efficient
Inference on Heterogeneous Devices", arXiv 2206.10844 (2022); the setting `quantization-robust.variant` names the objective.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fedwarm.methods import Method
from fedwarm.settings.fields import Value

WIDTHS = "8,7,6,5,4,3,2"
VARIANT = "quantization-robust.variant"


def preset(get: Callable[[str], Value]) -> Mapping[str, Value]:
    """The objective that the variant names, and all widths to measure the model at."""
    return {"objective": get(VARIANT), "evaluate.bit-widths": WIDTHS}


def uses(run: Any) -> tuple[str, ...]:
    """The variant counts where the objective is not chosen beside it."""
    return (VARIANT,) if run["objective"] == run[VARIANT] else ()


COMPONENT = Method(
    "QuantizationRobust",
    "FedAvg of one model that stays accurate at every bit-width (Gupta et al., 2022)",
    preset=preset,
    uses=uses,
)

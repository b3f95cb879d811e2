"""FedAvg whose one model stays good at every bit-width: Gupta et al., "Quantization Robust Federated Learning for Efficient
Inference on Heterogeneous Devices", arXiv 2206.10844 (2022); the setting `quantization-robust.variant` names the objective.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fedwarm.methods import Method
from fedwarm.settings.fields import Value

WIDTHS = "8,7,6,5,4,3,2"


def preset(get: Callable[[str], Value]) -> Mapping[str, Value]:
    """The objective that the variant names, and all widths to measure the model at."""
    return {"objective": get("quantization-robust.variant"), "evaluate.bit-widths": WIDTHS}


COMPONENT = Method(
    "QuantizationRobust", "FedAvg whose one model stays good at every bit-width (Gupta et al., 2022)", preset=preset
)

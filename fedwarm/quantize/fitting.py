"""Whether a run's model has anything to quantize."""

from __future__ import annotations

from typing import Any

from fedwarm.models import Model
from fedwarm.quantize.surgery import layers
from fedwarm.quantize.uniform import Scheme
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError
from fedwarm.training.sizes import layers_of


def check_layers(config: Config, known: Any, scheme: Scheme, who: str) -> None:
    """Refuse a model in which nothing would be quantized, so that every number would be the float model's.

    Args:
        config: the run's settings.
        known: `parts.Known`.
        scheme: says which layers stay float.
        who: quantizes, for the error.

    Raises:
        SettingError: no layer is left.
    """
    model = layers_of(config, known)
    if model is None or layers(model, scheme.skip_first_last):
        return
    has = f"model {config.of(Model).name!r} has {len(layers(model)) or 'no'} convolutions and linear layers"
    kept = ", of which the first and the last stay float; quantize these, too, or" if layers(model) else ";"
    raise SettingError(f"{who} finds nothing to quantize: {has}{kept} take another model")

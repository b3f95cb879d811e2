"""Widths out of settings, and settings that do not go together."""

from __future__ import annotations

import pytest

from fedwarm.quantize.settings import QuantizationRobust, validated, widths_of
from fedwarm.settings.fields import SettingError


def settings(**given: object) -> QuantizationRobust:
    return QuantizationRobust(**given)  # type: ignore[arg-type]


def test_settings_that_do_not_go_together() -> None:
    assert widths_of(" 2, 4,32", "key") == (2, 4, 32)
    for text in ("", "2,,4", "2;4", "four", "1,4", "4,17", "-4", "2.5"):
        with pytest.raises(SettingError, match="train-bits"):
            validated(settings(train_bits=text), "mqat")
    with pytest.raises(SettingError, match="quantization-robust.bits = 20"):
        validated(settings(bits=20), "qat")
    with pytest.raises(SettingError, match="'learned' is for qat, not for another"):
        validated(settings(range="learned"), "another")
    assert validated(settings(range="learned")).scheme.rule == "mse"

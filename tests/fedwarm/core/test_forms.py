"""Numbers as people read them."""

from __future__ import annotations

import pytest

from fedwarm.core import forms


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999.6, "1.00 kB"),
        (1234, "1.23 kB"),
        (3_221_504, "3.22 MB"),
        (99_960_000, "100 MB"),
        (5e15, "5000 TB"),
    ],
)
def test_byte_text(count: float, text: str) -> None:
    assert forms.byte_text(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.424, "0.42 s"), (12.34, "12.3 s"), (59.96, "1 min 00 s"), (372, "6 min 12 s"), (3780, "1 h 03 min")]
)
def test_second_text(seconds: float, text: str) -> None:
    assert forms.second_text(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 seconds"), (1, "1 second"), (119, "1 minute"), (7300, "2 hours"), (86400, "1 day")]
)
def test_age(seconds: float, text: str) -> None:
    assert forms.age(seconds) == text

"""What a setting may be: its value in its field's type and range, or refused by its key."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import MISSING

Value = str | int | float | bool


class SettingError(ValueError):
    """A setting or an input that cannot be used; the message is one line that says what would be right."""


def near(name: str, known: list[str]) -> str:
    """` (did you mean a, b?)`, or nothing where no name is near."""
    found = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f" (did you mean {', '.join(found)}?)" if found else ""


WORDS = {str: "a text in quotes", bool: "true or false", int: "a whole number", float: "a number"}


def checked(key: str, value: Value, f: dataclasses.Field[Value]) -> Value:
    """The value in its field's type and range, or a SettingError that names the key."""
    assert f.default is not MISSING
    wanted = type(f.default)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 2**1023 else float("inf")
    if type(value) is not wanted:
        raise SettingError(f"{key} = {value!r} is {type(value).__name__}; it must be {WORDS[wanted]}")
    meta = f.metadata
    kind = getattr(meta["choices"], "canonical", None)
    if kind is not None:
        return str(kind(value, key))
    if meta["choices"] and value not in meta["choices"]:
        raise SettingError(f"{key} = {value!r} is unknown; choose one of {', '.join(meta['choices'])}")
    if isinstance(value, (int, float)) and not _within(value, meta["low"], meta["high"]):
        raise SettingError(f"{key} = {value!r} is out of range; it must be {allowed(f)}")
    return value


def _within(value: float, low: float | None, high: float | None) -> bool:
    return value == value and abs(value) != float("inf") and (low is None or value >= low) and (high is None or value <= high)


def allowed(f: dataclasses.Field[Value]) -> str:
    """What a setting may be, in words."""
    meta = f.metadata
    if meta["choices"]:
        return " | ".join([*meta["choices"], *(["any"] if getattr(meta["choices"], "open", False) else [])])
    low, high = meta["low"], meta["high"]
    if low is not None and high is not None:
        return f"{_number(low)} to {_number(high)}"
    if low is not None:
        return f"at least {_number(low)}"
    return "true | false" if isinstance(f.default, bool) else "any"


def _number(bound: float) -> str:
    """A bound with all its digits where it is whole."""
    whole = str(bound) if isinstance(bound, int) else f"{bound:.0f}"
    return whole if isinstance(bound, int) or abs(bound) >= 1e5 else f"{bound:g}"

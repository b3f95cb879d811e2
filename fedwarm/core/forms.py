"""Numbers for people: bytes, durations, ages, shares."""

from __future__ import annotations

AGES = ((86400.0, "day"), (3600.0, "hour"), (60.0, "minute"))


def byte_text(count: float) -> str:
    """A number of bytes for people, in powers of 1000: `3.22 MB`."""
    units = ["B", "kB", "MB", "GB", "TB"]
    while abs(count) >= 999.5 and len(units) > 1:
        count /= 1000
        units.pop(0)
    unit = units[0]
    digits = 0 if unit == "B" or abs(count) >= 99.95 else 1 if abs(count) >= 9.995 else 2
    return f"{count:.{digits}f} {unit}"


def second_text(seconds: float) -> str:
    """Seconds for people: `0.42 s`, `12.3 s`, `6 min 12 s`, `1 h 03 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s" if seconds >= 9.995 else f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def age(seconds: float) -> str:
    """Seconds as the largest whole unit: `3 days`, `1 hour`, `0 seconds`."""
    length, unit = next(((length, unit) for length, unit in AGES if seconds >= length), (1.0, "second"))
    count = int(seconds // length)
    return f"{count} {unit}{'' if count == 1 else 's'}"


def percent(value: float | None) -> str:
    """A share as `78.3 %`, or a dash where there is none."""
    return "–" if value is None else f"{100 * value:.1f} %"

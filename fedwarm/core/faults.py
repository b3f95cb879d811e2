"""Faults that clients are made to show: for tests, and for users who want to see what a run makes of them.

Which replies are struck is a function of (seed, ticket): the same for every kind of fault, on every engine and after a resume,
and those struck at a low rate are among those struck at a higher one. A ticket is "<stage index>.<attempt>.<client>".
Every kind but `delay` (where the deadline is later) and `poison` makes a reply that the server has to refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedwarm.core.arrays import Arrays
from fedwarm.core.norms import along, floats
from fedwarm.core.seeds import derive
from fedwarm.settings.fields import CHOSEN, Group, SettingError, Value, checked, keys, setting

EXTRA = "injected"
OVERSIZE = 10
OVERSIZE_AT_LEAST_BYTES = 2**20
KINDS = (
    "none", "crash", "delay", "nan", "infinity", "wrong_shape", "missing_key", "extra_key", "wrong_dtype", "huge_update",
    "oversized", "replay", "truncated", "poison",
)  # fmt: skip


@dataclass(frozen=True)
class Faults(Group, prefix="faults"):
    """Settings of the fault injector."""

    kind: str = setting(
        "none", "what is wrong with a training reply that is struck", choices=KINDS, when=lambda r: r["faults.rate"] > 0
    )
    rate: float = setting(
        0.0,
        "share of the training replies that are struck, each by its own seeded draw",
        low=0.0,
        high=1.0,
        when=lambda r: r["faults.kind"] != "none",
    )
    clients: str = setting(
        "",
        "partitions that are struck, e.g. `1,3`; empty: any",
        when=lambda r: r["faults.kind"] != "none" and r["faults.rate"] > 0,
    )
    delay_seconds: float = setting(5.0, "seconds by which `delay` answers late", low=0.0, when=CHOSEN)
    scale: float = setting(1e6, "factor of `huge_update`: w + scale (w_k - w)", low=1.0, when=CHOSEN)
    poison_scale: float = setting(
        3.0, "factor of `poison`: w - scale (w_k - w), small enough to look honest", low=0.0, when=CHOSEN
    )


class InjectedError(RuntimeError):
    """What a client raises that is told to crash."""


def faults_of(flat: Mapping[str, Value]) -> Faults:
    """The group alone out of a flat run config, whose other keys are not looked at.

    Raises:
        SettingError: a value of another type or out of its range.
    """
    given: dict[str, Any] = {f.name: checked(key, flat[key], f) for key, _, f in keys((Faults,)) if key in flat}
    return Faults(**given)


def struck_clients(faults: Faults) -> frozenset[int] | None:
    """The partitions of the setting `clients`, or None for any.

    Raises:
        SettingError: the setting is no list of whole numbers.
    """
    if not faults.clients.strip():
        return None
    parts = [part.strip() for part in faults.clients.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise SettingError(f"faults.clients = {faults.clients!r} must be partitions with commas between them, e.g. '1,3'")
    return frozenset(int(part) for part in parts)


def strikes(faults: Faults, seed: int, ticket: str) -> bool:
    """Whether the reply to this ticket is spoilt.

    Raises:
        SettingError: see `struck_clients`.
    """
    if faults.kind == "none" or faults.rate == 0:
        return False
    clients, client = struck_clients(faults), ticket.rpartition(".")[2]
    if clients is not None and client not in {str(c) for c in clients}:
        return False
    return derive(seed, "fault", ticket) < faults.rate * 2**63


def stale(ticket: str) -> str:
    """The ticket of the stage before, which no present message carries."""
    stage, dot, rest = ticket.partition(".")
    return f"{int(stage) - 1}{dot}{rest}" if stage.lstrip("-").isdecimal() else f"-1.{ticket}"


def cut(data: bytes) -> bytes:
    """The first half of an array's bytes."""
    return data[: len(data) // 2]


Numbers = NDArray[np.generic]
Spoil = Callable[[Arrays, Arrays, Faults], Arrays | None]


def spoilt(faults: Faults, arrays: Arrays, reference: Arrays) -> Arrays | None:
    """What a struck client sends instead of its arrays; None where the kind does not change them, or finds nothing to change.

    Args:
        faults: kind and factors.
        arrays: w_k, the honest reply; it is not written to.
        reference: w, what the client was sent; a name that it lacks counts as zeros.
    """
    spoil = SPOILS.get(faults.kind)
    return spoil(arrays, reference, faults) if spoil is not None else None


def _with(arrays: Arrays, name: str | None, change: Callable[[Numbers], Numbers]) -> Arrays | None:
    return None if name is None else {**arrays, name: change(arrays[name])}


def _first_float(arrays: Arrays) -> str | None:
    return next((name for name in floats(arrays) if arrays[name].size), None)


def _poked(value: float) -> Spoil:
    def change(array: Numbers) -> Numbers:
        out = array.copy()
        out.flat[0] = value
        return out

    return lambda arrays, reference, faults: _with(arrays, _first_float(arrays), change)


def _wrong_shape(arrays: Arrays, reference: Arrays, faults: Faults) -> Arrays | None:
    return _with(arrays, next(iter(arrays), None), lambda a: a[np.newaxis])


def _wrong_dtype(arrays: Arrays, reference: Arrays, faults: Faults) -> Arrays | None:
    return _with(arrays, _first_float(arrays), lambda a: a.astype(np.float32 if a.dtype == np.float64 else np.float64))


def _missing_key(arrays: Arrays, reference: Arrays, faults: Faults) -> Arrays | None:
    return {name: arrays[name] for name in list(arrays)[:-1]} if arrays else None


def _extra_key(arrays: Arrays, reference: Arrays, faults: Faults) -> Arrays:
    return {**arrays, EXTRA: np.zeros(1, np.float32)}


def _oversized(arrays: Arrays, reference: Arrays, faults: Faults) -> Arrays:
    size_bytes = max(OVERSIZE_AT_LEAST_BYTES, OVERSIZE * sum(a.nbytes for a in arrays.values()))
    return {**arrays, EXTRA: np.zeros(size_bytes, np.uint8)}


def _huge_update(arrays: Arrays, reference: Arrays, faults: Faults) -> Arrays | None:
    return along(arrays, reference, faults.scale) if floats(arrays) else None


def _poison(arrays: Arrays, reference: Arrays, faults: Faults) -> Arrays | None:
    return along(arrays, reference, -faults.poison_scale) if floats(arrays) else None


SPOILS: dict[str, Spoil] = {
    "nan": _poked(np.nan),
    "infinity": _poked(np.inf),
    "wrong_shape": _wrong_shape,
    "missing_key": _missing_key,
    "extra_key": _extra_key,
    "wrong_dtype": _wrong_dtype,
    "huge_update": _huge_update,
    "oversized": _oversized,
    "poison": _poison,
}

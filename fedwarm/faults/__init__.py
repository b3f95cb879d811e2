"""Faults that clients are made to show: for tests, and for users who want to see what a run makes of them.

Which replies are struck is a function of (seed, ticket): the same for every kind of fault, on every engine and after a resume,
and those struck at a low rate are among those struck at a higher one. A ticket is "<stage index>.<attempt>.<client>".

A kind of fault is a subclass of `Fault`, or of `Spoilt` where it changes the arrays alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedwarm.core.arrays import Arrays
from fedwarm.core.norms import floats
from fedwarm.core.payload import Payload
from fedwarm.core.seeds import derive
from fedwarm.settings.fields import CHOSEN, Group, SettingError, Value, read, setting
from fedwarm.settings.kinds import FAULTS
from fedwarm.settings.registry import settings_of

G = TypeVar("G", bound="Group")
Numbers = NDArray[np.generic]
EXTRA = "injected"


@dataclass(frozen=True)
class Faults(Group, prefix="faults"):
    """Settings of the fault injector."""

    kind: str = setting(
        "none",
        "kind of fault to inject into training replies, for tests of a run's robustness; none: no faults",
        choices=FAULTS,
        when=lambda r: r["faults.rate"] > 0,
    )
    rate: float = setting(
        0.0,
        "fraction of the training replies that are faulty, drawn from the seed",
        low=0.0,
        high=1.0,
        when=lambda r: r["faults.kind"] != FAULTS.first,
    )
    clients: str = setting(
        "",
        "clients that are faulty, e.g. `1,3`; empty: any client",
        when=lambda r: r["faults.kind"] != FAULTS.first and r["faults.rate"] > 0,
    )
    delay_seconds: float = setting(5.0, "seconds of delay of faults.kind = delay", low=0.0, when=CHOSEN)
    scale: float = setting(1e6, "factor of `huge_update`: w + scale (w_k - w)", low=1.0, when=CHOSEN)
    poison_scale: float = setting(
        3.0, "factor of `poison`: w - scale (w_k - w), small enough to look honest", low=0.0, when=CHOSEN
    )
    own_settings: tuple[Group, ...] = field(default=(), repr=False)

    def of(self, group: type[G]) -> G:
        """The settings of the chosen kind; their defaults where it is chosen without a run."""
        return next((found for found in self.own_settings if isinstance(found, group)), None) or group()


class InjectedError(RuntimeError):
    """The failure of a client that is told to crash."""


class Fault:
    """A kind of fault. As it stands a struck client does as any other.

    Attributes:
        refused: whether the server has to refuse the reply, which else passes every check.
        remembers: whether `spoil` is given the client's earlier reply.
        turns: whether it turns updates round; clients whose replies are code words do that themselves (see `turned`).
    """

    refused: ClassVar[bool] = True
    remembers: ClassVar[bool] = False
    turns: ClassVar[bool] = False

    def __init__(self, faults: Faults) -> None:
        self.faults = faults

    def before(self, ticket: str) -> None:
        """Act before the client does any work; an exception becomes the client's."""

    def spoil(self, honest: Payload, sent: Payload, earlier: Payload | None) -> Payload:
        """The reply that is sent instead, after the client's work.

        Args:
            honest: the client's own reply, whose arrays are not to be written to.
            sent: the message that it answers.
            earlier: the client's last honest reply in this process, where the kind remembers it and there is one.
        """
        return honest

    def garble(self, data: bytes) -> bytes:
        """The bytes of the reply's first array as they travel."""
        return data


class Spoilt(Fault):
    """A kind of fault that changes the arrays alone."""

    def spoil(self, honest: Payload, sent: Payload, earlier: Payload | None) -> Payload:
        arrays = self.change(honest.arrays, sent.arrays)
        return honest if arrays is None else replace(honest, arrays=arrays)

    def change(self, arrays: Arrays, reference: Arrays) -> Arrays | None:
        """The arrays that are sent instead; None where there is nothing to change.

        Args:
            arrays: w_k, the honest reply; it is not written to.
            reference: w, as the client was sent it; a name that it lacks counts as zeros.
        """
        raise NotImplementedError


def fault_of(faults: Faults) -> Fault:
    """The chosen kind of fault."""
    found: Fault = FAULTS.load(faults.kind)(faults)
    return found


def faults_of(flat: Mapping[str, Value]) -> Faults:
    """The group, and the chosen kind's own settings, out of a flat run config, whose other keys are not looked at.

    Raises:
        SettingError: a value of another type or out of its range.
    """
    faults = read(Faults, flat)
    return replace(faults, own_settings=tuple(read(group, flat) for group in settings_of(FAULTS.load(faults.kind))))


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
    if faults.kind == FAULTS.first or faults.rate == 0:
        return False
    clients, client = struck_clients(faults), ticket.rpartition(".")[2]
    if clients is not None and client not in {str(c) for c in clients}:
        return False
    return derive(seed, "fault", ticket) < faults.rate * 2**63


def turned(faults: Faults, seed: int, ticket: str) -> bool:
    """Whether a client is to turn what it found round before it encodes it, as no fault can in its code words.

    Raises:
        SettingError: see `struck_clients`.
    """
    return strikes(faults, seed, ticket) and fault_of(faults).turns


def first_float(arrays: Arrays) -> str | None:
    """The name of the first float array that holds a number."""
    return next((name for name in floats(arrays) if arrays[name].size), None)


def with_changed(arrays: Arrays, name: str | None, change: Callable[[Numbers], Numbers]) -> Arrays | None:
    """The arrays with one of them changed; None where there is no such one."""
    return None if name is None else {**arrays, name: change(arrays[name])}


def poked(arrays: Arrays, value: float) -> Arrays | None:
    """The arrays with another value as the first number of the first float array."""

    def change(array: Numbers) -> Numbers:
        out = array.copy()
        out.flat[0] = value
        return out

    return with_changed(arrays, first_float(arrays), change)

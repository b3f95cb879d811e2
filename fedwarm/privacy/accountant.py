"""The account of a run: which events touched whom, how often, and the (epsilon, delta) that this comes to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from functools import lru_cache
from math import exp, expm1, inf, log, sqrt
from typing import Any

import numpy as np

from fedwarm.privacy.events import (
    LOW,
    TOP,
    AtServer,
    Curves,
    Event,
    Gaussian,
    RandomCoding,
    Sampled,
    Simulated,
    Within,
    curves,
    nothing,
)
from fedwarm.privacy.random_coding import Curve
from fedwarm.settings.fields import SettingError

EVERYONE = -1
EVENTS = (RandomCoding, Gaussian, Simulated, AtServer, Sampled, Within)
KINDS: dict[str, Callable[..., Event]] = {kind.__name__: kind for kind in EVENTS}

priced = lru_cache(maxsize=64)(curves)


def epsilon_of(curve: Curve, delta: float) -> float:
    """The smallest epsilon that a Renyi curve at the orders 2.. gives at `delta`.

    min over alpha of D + ln((alpha - 1) / alpha) - (ln delta + ln alpha) / (alpha - 1) (Canonne, Kamath, Steinke, "The Discrete
    Gaussian for Differential Privacy", NeurIPS 2020, proposition 12); 0 where delta covers the total variation by itself, which
    is at most sqrt(1 - e^-D) (Bretagnolle, Huber, 1979).
    """
    if not 0 < delta < 1:
        raise SettingError(f"delta = {delta}; it must lie between 0 and 1")
    if delta >= sqrt(-expm1(-float(curve[0]))):
        return 0.0
    return max(0.0, _converted(curve, np.arange(2.0, curve.size + 2), delta))


def delta_of(curve: Curve, epsilon: float) -> float:
    """The smallest delta that a Renyi curve gives at `epsilon`: the inverse of `epsilon_of`."""
    orders = np.arange(2, curve.size + 2)
    logs = (orders - 1) * (curve - epsilon + np.log1p(-1 / orders)) - np.log(orders)
    return min(1.0, exp(min(0.0, float(logs.min()))), sqrt(-expm1(-float(curve[0]))))


def _converted(curve: Curve, orders: Curve, delta: float) -> float:
    return float(np.min(curve + np.log1p(-1 / orders) - (log(delta) + np.log(orders)) / (orders - 1)))


def epsilon_of_both(both: Curves, delta: float) -> float:
    """Epsilon that holds in both directions; below order 2 only the larger of both is known."""
    whole = max(epsilon_of(both.absent, delta), epsilon_of(both.present, delta))
    return max(0.0, min(whole, _converted(both.low, LOW, delta)))


class Accountant:
    """Counts events per client and prices them.

    Args:
        delta: what is reported; `reserve` of it is spent on something else, e.g. cohorts that do not fit their slots.
        adjacency: one of `events.ADJACENCIES`.
        reserve: in [0, delta).
        top: the largest Renyi order.
    """

    def __init__(self, delta: float, adjacency: str = "zero_out", reserve: float = 0.0, top: int = TOP) -> None:
        if not 0 <= reserve < delta < 1:
            raise SettingError(f"delta = {delta} with {reserve} of it reserved; it must be 0 <= reserved < delta < 1")
        self.delta, self.adjacency, self.reserve, self.top = delta, adjacency, reserve, top
        self._counts: dict[int, dict[Event, int]] = {}

    def spend(self, event: Event, clients: Iterable[int] = (EVERYONE,), times: int = 1) -> None:
        """Book an event for the clients it released something of; EVERYONE where nobody can see who took part."""
        for client in clients:
            counts = self._counts.setdefault(client, {})
            counts[event] = counts.get(event, 0) + times

    def epsilon(self, client: int | None = None) -> float:
        """Epsilon at `delta`: of one client, or the largest of all."""
        if client is not None:
            return self._price(self._of(client))
        return max([0.0, *(self._price(counts) for counts in self._distinct(self._counts))])

    def after(self, event: Event, clients: Iterable[int] = (EVERYONE,), times: int = 1) -> float:
        """What `epsilon()` would be if the event were booked too: ask before it happens."""
        trial = Accountant(self.delta, self.adjacency, self.reserve, self.top)
        trial._counts = {client: dict(counts) for client, counts in self._counts.items()}
        trial.spend(event, clients, times)
        return trial.epsilon()

    def state(self) -> dict[str, Any]:
        """Everything, as JSON: what a checkpoint keeps."""
        rows = [
            {"client": client, "event": _to_json(event), "times": times}
            for client in sorted(self._counts)
            for event, times in self._counts[client].items()
        ]
        return {"delta": self.delta, "adjacency": self.adjacency, "reserve": self.reserve, "top": self.top, "spent": rows}

    @staticmethod
    def from_state(state: Mapping[str, Any]) -> Accountant:
        """The account of `state()`; it goes on to the same epsilon."""
        account = Accountant(state["delta"], state["adjacency"], state["reserve"], state["top"])
        for row in state["spent"]:
            account.spend(_from_json(row["event"]), (row["client"],), row["times"])
        return account

    def _of(self, client: int) -> dict[Event, int]:
        shared = dict(self._counts.get(EVERYONE, {}))
        if client != EVERYONE:
            for event, times in self._counts.get(client, {}).items():
                shared[event] = shared.get(event, 0) + times
        return shared

    def _distinct(self, clients: Iterable[int]) -> list[dict[Event, int]]:
        return list({frozenset((found := self._of(client)).items()): found for client in clients}.values())

    def _price(self, counts: Mapping[Event, int]) -> float:
        total = sum((priced(event, self.adjacency, self.top) * times for event, times in counts.items()), nothing(self.top))
        slack = self.reserve + sum(times * event.slack for event, times in counts.items() if isinstance(event, Within))
        return epsilon_of_both(total, self.delta - slack) if slack < self.delta else inf


def _to_json(event: Event) -> dict[str, Any]:
    inner = asdict(event)
    if isinstance(event, Sampled | Within):
        inner["event"] = _to_json(event.event)
    return {"kind": type(event).__name__, **inner}


def _from_json(data: Mapping[str, Any]) -> Event:
    rest = {name: value for name, value in data.items() if name != "kind"}
    if "event" in rest:
        rest["event"] = _from_json(rest["event"])
    if data["kind"] == "RandomCoding":
        rest["caps"] = tuple((float(cap), int(count)) for cap, count in rest["caps"])
    return KINDS[data["kind"]](**rest)

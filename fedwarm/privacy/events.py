"""Events say what was released; `curves` says what it costs, in Renyi divergence, in both directions.

An event is a frozen value, so that a run's whole account is a count of events: it is saved with the checkpoint and priced anew.
The default adjacency is zero-out at the level of a client: the same clients, one of whom had nothing to say. `replacement` puts
any other update in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from fedwarm.privacy.random_coding import Curve, absent_to_present, below_two, present_to_absent
from fedwarm.privacy.sampling import sampled_absent, sampled_present
from fedwarm.settings.fields import SettingError

ADJACENCIES = ("zero_out", "replacement")
TOP = 256
LEVELS = 16
LOW = 1 + np.geomspace(0.004, 0.98, 160)


@dataclass(frozen=True)
class RandomCoding:
    """Code words of one update, with candidates that the adversary knows.

    Attributes:
        bits: b, K = 2^b candidates a block.
        energy: X = C^2 / sigma^2, the update's most squared norm.
        caps: (most squared norm, number of blocks) in units of sigma^2, of all blocks.
    """

    bits: int
    energy: float
    caps: tuple[tuple[float, int], ...]

    @staticmethod
    def of(bits: int, energy: float, caps: Curve) -> RandomCoding:
        """From one cap a block (B,); many different ones are rounded up to few, which only adds to the price."""
        values, counts = np.unique(caps, return_counts=True)
        if values.size > LEVELS:
            levels = np.geomspace(values[0], values[-1], LEVELS)
            levels[-1] = values[-1]
            values, counts = np.unique(levels[np.searchsorted(levels, caps)], return_counts=True)
        return RandomCoding(bits, float(energy), tuple((float(v), int(n)) for v, n in zip(values, counts, strict=True)))

    def worst(self) -> list[tuple[float, int]]:
        """(squared norm, number of blocks) of the split of the energy that costs most: the largest caps filled first.

        D_alpha(Q||P) is convex in c^2 and 0 at 0, so its sum over blocks is Schur-convex, and this split majorises every other.
        """
        left, out = self.energy, []
        for cap, count in sorted(self.caps, reverse=True):
            full = min(count, int(left / cap)) if cap > 0 else 0
            out.append((cap, full))
            left -= full * cap
            if full < count:
                return [*out, (max(left, 0.0), 1)]
        return out


@dataclass(frozen=True)
class Gaussian:
    """An update under noise N(0, sigma^2 I); energy = C^2 / sigma^2, 1 / z^2 for the noise multiplier z."""

    energy: float


@dataclass(frozen=True)
class Simulated:
    """Code words that decode to an update under noise N(0, sigma^2 I), for those who cannot draw the candidates.

    For those who can, an index tells of the update what no noise covers: the price is infinite.
    """

    energy: float


@dataclass(frozen=True)
class AtServer:
    """An update that leaves its client without noise, of which the server adds as much as if each update had N(0, sigma^2 I)."""

    energy: float


@dataclass(frozen=True)
class Sampled:
    """An event in which each client (or example) takes part with probability `rate`, unseen.

    Where the noise comes with those who take part, sums must be padded to a fixed number of them; see `sampling`.
    """

    event: RandomCoding | Gaussian
    rate: float


@dataclass(frozen=True)
class Within:
    """An event that costs what it says except with a probability `slack`, which delta pays each time that it happens."""

    event: RandomCoding | Gaussian | Sampled
    slack: float


Event = RandomCoding | Gaussian | Simulated | AtServer | Sampled | Within


def dp_sgd_step(noise_multiplier: float, rate: float) -> Sampled:
    """One step of DP-SGD: clipped gradients of a Poisson sample, summed, plus noise of `noise_multiplier` times the clip."""
    return Sampled(Gaussian(noise_multiplier**-2), rate)


@dataclass(frozen=True)
class Curves:
    """Renyi divergences at the orders 2..top, (top - 1,) each.

    Attributes:
        absent: D_alpha(Q||P), the client absent against present.
        present: D_alpha(P||Q).
        low: the larger of both at the orders `LOW`, between 1 and 2, (LOW.size,); left out: that of order 2, as they grow.
    """

    absent: Curve
    present: Curve
    low: Curve = field(default_factory=lambda: np.full(LOW.size, np.nan))

    def __post_init__(self) -> None:
        highest = max(float(self.absent[0]), float(self.present[0]))
        object.__setattr__(self, "low", np.where(np.isnan(self.low), highest, self.low))

    def __add__(self, other: Curves) -> Curves:
        return Curves(self.absent + other.absent, self.present + other.present, self.low + other.low)

    def __mul__(self, times: int) -> Curves:
        return Curves(times * self.absent, times * self.present, times * self.low)


def nothing(top: int = TOP) -> Curves:
    """The cost of no release."""
    return Curves(np.zeros(top - 1), np.zeros(top - 1))


def curves(event: Event, adjacency: str = "zero_out", top: int = TOP) -> Curves:
    """What an event costs.

    Raises:
        SettingError: an adjacency that has no proven bound for this event.
    """
    if adjacency == "zero_out":
        return _zero_out(event.event if isinstance(event, Within) else event, top)
    if adjacency != "replacement":
        raise SettingError(f"adjacency {adjacency!r} is unknown; choose one of {', '.join(ADJACENCIES)}")
    if isinstance(event, Within):
        return curves(event.event, adjacency, top)
    if isinstance(event, Sampled):
        raise SettingError("adjacency = 'replacement' has no proven bound under sampling; choose zero_out, or the local view")
    if isinstance(event, Gaussian):
        return _zero_out(Gaussian(4 * event.energy), top)
    return _replaced(_zero_out(event, 2 * top), top)


def _zero_out(event: Event, top: int) -> Curves:
    return PRICES[type(event)](event, top)


def _random_coding(event: RandomCoding, top: int) -> Curves:
    worst = event.worst()
    absent = sum((n * absent_to_present(event.bits, x, top) for x, n in worst), np.zeros(top - 1))
    blocks = sum(count for _, count in event.caps)
    whole = sum(n * x for x, n in worst)
    return Curves(absent, present_to_absent(event.bits, whole, top, blocks), below_two(LOW, whole))


def _gaussian(event: Gaussian, top: int) -> Curves:
    curve = np.arange(2, top + 1) * event.energy / 2
    return Curves(curve, curve.copy(), below_two(LOW, event.energy))


def _without_price(event: Simulated | AtServer, top: int) -> Curves:
    return Curves(np.full(top - 1, np.inf), np.full(top - 1, np.inf))


def _sampled(event: Sampled, top: int) -> Curves:
    """Both directions of the padded, subsampled event.

    For the Gaussian, D(qP + (1-q)Q || Q) is exact and the larger of the two (Mironov, Talwar, Zhang, theorem 5).
    """
    inner = _zero_out(event.event, top)
    if event.rate >= 1:
        return inner
    present = sampled_present(inner.present, event.rate)
    if isinstance(event.event, Gaussian):
        return Curves(present.copy(), present)
    return Curves(sampled_absent(np.maximum(inner.absent, inner.present), event.rate), present)


def _replaced(wide: Curves, top: int) -> Curves:
    """D_alpha(P||P') <= ((alpha - 1/2) / (alpha - 1)) D_{2 alpha}(P||Q) + D_{2 alpha - 1}(Q||P'), from curves up to 2 top.

    Mironov, "Renyi Differential Privacy", CSF 2017, proposition 11.
    """
    orders = np.arange(2, top + 1)
    curve = (orders - 0.5) / (orders - 1) * wide.present[2 * orders - 2] + wide.absent[2 * orders - 3]
    return Curves(curve, curve.copy())


PRICES: dict[type, Callable[..., Curves]] = {
    RandomCoding: _random_coding, Gaussian: _gaussian, Simulated: _without_price,
    AtServer: _without_price, Sampled: _sampled,
}  # fmt: skip

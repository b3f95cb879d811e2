"""Who looks, and what may be claimed against them.

| view | the adversary sees | claim |
|---|---|---|
| `local` | seeds and every client's code words | certified; each participation counts, sampling helps nothing |
| `central_certified` | released models only; seeds and cohorts are secret | certified; Poisson sampling, padded sums, averaging |
| `central_limit` | as above | an estimate: the sum's noise taken as Gaussian, exact only for K -> infinity |

Where seeds are public, or code words are replayed to clients, only `local` holds: the mean of a few decoded vectors gives the
indices away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import exp, sqrt

from fedwarm.privacy.accountant import EVERYONE, Accountant
from fedwarm.privacy.averaged import LARGEST, RESERVED, hidden
from fedwarm.privacy.events import ADJACENCIES, AtServer, Event, Gaussian, RandomCoding, Sampled, Simulated, Within
from fedwarm.privacy.sampling import Slots, slots
from fedwarm.settings.fields import SettingError

VIEWS = ("local", "central_certified", "central_limit")
Release = RandomCoding | Gaussian | Simulated | AtServer
TOLERATED = 0.01  # of delta, for messages whose law is only nearly what the account takes


@dataclass(frozen=True)
class Terms:
    """What a run's guarantee is stated for.

    Attributes:
        view: one of `VIEWS`.
        delta: of (epsilon, delta).
        population: N, clients that might take part.
        cohort: n, clients of a round (expected, in the central views).
        rounds: T.
        adjacency: `zero_out`, or `replacement` in the local view.
        participations: most rounds that one client takes part in (local view); 0: all of them.
    """

    view: str
    delta: float
    population: int
    cohort: int
    rounds: int
    adjacency: str = "zero_out"
    participations: int = 0

    def __post_init__(self) -> None:
        if self.view not in VIEWS:
            raise SettingError(f"view {self.view!r} is unknown; choose one of {', '.join(VIEWS)}")
        if self.adjacency not in ADJACENCIES:
            raise SettingError(f"adjacency {self.adjacency!r} is unknown; choose one of {', '.join(ADJACENCIES)}")
        if not 0 < self.delta < 1:
            raise SettingError(f"delta = {self.delta}; it must lie between 0 and 1")
        if not (1 <= self.cohort <= self.population and self.rounds >= 1 and 0 <= self.participations <= self.rounds):
            raise SettingError(
                f"cohort = {self.cohort} of {self.population} clients, {self.rounds} rounds, {self.participations} for "
                "each is out of range; it must be 1 <= cohort <= population, rounds >= 1, participations <= rounds"
            )
        if self.central and self.adjacency != "zero_out":
            raise SettingError(f"adjacency = {self.adjacency!r} has no proven bound in the view {self.view}; choose zero_out")

    @property
    def central(self) -> bool:
        return self.view != "local"

    @property
    def certified(self) -> bool:
        """Whether the figure is a bound; else it is printed as an estimate."""
        return self.view != "central_limit"

    @property
    def rate(self) -> float:
        """q, the chance that a client takes part in a round of a central view."""
        return self.cohort / self.population

    @cached_property
    def slots(self) -> Slots:
        """Vectors in every sum: padded in the central views, else the cohort."""
        return slots(self.population, self.rate, self.rounds, self.delta) if self.central else Slots(self.cohort, 0.0)

    def event(self, release: Release) -> Event:
        """What one participation (local) or one round (central) releases, from what a client sends.

        In the central views a Gaussian release is the sum of the slots' noises, which is Gaussian itself: no estimate.
        """
        if not self.central:
            return release
        if isinstance(release, Simulated):
            event = Within(self._normal(release), self.tolerated)
            return event if self._planned(event) <= LARGEST else release  # see `tolerance`
        if self.view == "central_limit" or isinstance(release, Gaussian | AtServer):
            return self._normal(release)
        return self._averaged(release)

    def _normal(self, release: Release) -> Sampled:
        return Sampled(Gaussian(release.energy / self.slots.count), self.rate)

    def _averaged(self, release: RandomCoding) -> Event:
        """A coded release with credit for the other vectors of its sum (see `averaged`), which a tenth of delta pays for.

        Without that credit where the planned rounds cost less so, as those of few vectors and single bits may, or more than the
        proof covers.
        """
        slack = RESERVED * self.delta / self.rounds
        cap = sqrt(min(release.energy, max(cap for cap, _ in release.caps)))
        blocks = sum(count for _, count in release.caps)
        variance = hidden(release.bits, cap, blocks, self.slots.count - 1, slack)
        alone = Sampled(release, self.rate)
        if not variance:
            return alone
        averaged = Within(Sampled(Gaussian(release.energy / variance), self.rate), slack)
        most = min(self._planned(alone), LARGEST)
        return averaged if self._planned(averaged) <= most else alone

    def _planned(self, event: Event) -> float:
        """Epsilon of so many rounds."""
        account = self.accountant()
        account.spend(event, times=self.rounds)
        return account.epsilon()

    @property
    def tolerated(self) -> float:
        """What of delta a round may cost in which messages differ from what the account takes them for."""
        return TOLERATED * self.delta / self.rounds

    def tolerance(self, release: Release) -> float:
        """Total variation by which each message may differ from what the account takes it for; 0 where all are as it says.

        All messages of a run differ by n T times as much at most, and (1 + e^epsilon) times that is added to delta; with epsilon
        that of the planned run, what `event` sets aside of delta pays for it.

        Raises:
            SettingError: epsilon is so large that no code word is exact enough.
        """
        if not isinstance(release, Simulated):
            return 0.0
        epsilon = self.epsilon(release)
        if epsilon > LARGEST:
            raise SettingError(
                f"dp-rec.mechanism = 'poisson' has a proven epsilon up to {LARGEST:g} alone, and this run's would be larger; "
                "raise dp-rec.noise-multiplier or dp-rec.sigma, or plan fewer rounds"
            )
        return self.tolerated / self.slots.count / (1 + exp(epsilon))

    def accountant(self) -> Accountant:
        """An empty account under these terms."""
        return Accountant(self.delta, self.adjacency, self.slots.overflow)

    def book(self, account: Accountant, release: Release, cohort: tuple[int, ...]) -> None:
        """Book one round; call it before anything of the round leaves a client."""
        account.spend(self.event(release), (EVERYONE,) if self.central else cohort)

    def after(self, account: Accountant, release: Release, cohort: tuple[int, ...]) -> float:
        """Epsilon if one more round were run with this cohort."""
        return account.after(self.event(release), (EVERYONE,) if self.central else cohort)

    def epsilon(self, release: Release) -> float:
        """Epsilon of the whole planned run."""
        account = self.accountant()
        account.spend(self.event(release), times=self.rounds if self.central else self.participations or self.rounds)
        return account.epsilon()


def calibrate(epsilon: Callable[[float], float], target: float, *, low: float, high: float) -> float:
    """The smallest sigma in [low, high], to a ten-thousandth, with epsilon(sigma) <= target; the target holds for it exactly.

    Epsilon may step up a little where the number of blocks changes; then this is one of the sigmas where it crosses the target.

    Raises:
        SettingError: even the largest noise leaves epsilon above the target.
    """
    if not target > 0:
        raise SettingError(f"target-epsilon = {target}; it must be positive")
    if epsilon(high) > target:
        raise SettingError(f"target-epsilon = {target}: no sigma up to {high:g} reaches it; allow a larger delta or fewer rounds")
    while high / low > 1 + 1e-4:
        middle = sqrt(low * high)
        low, high = (low, middle) if epsilon(middle) <= target else (middle, high)
    return high

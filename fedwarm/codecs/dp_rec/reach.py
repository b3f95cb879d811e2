"""What a private run can come to, said before it starts: how long its noise is beside its updates, and what it costs.

The mean of n updates is C long at most, and the noise on its d numbers about sigma sqrt(d / n). Over T rounds updates that agree
add up to T C and the noise to sqrt(T) times a round's, so that signal to noise is sqrt(T) times a round's. Measured at seeds 101
and 102 (linear models on digits and MNIST, 20 to 200 clients, 5 to 40 rounds; docs/log.md): at 0.1 no run got beyond 26 % of
right answers, where 76 to 95 % are reached without noise; at 1 they had 50 to 85 %, at 2 66 to 89 %.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Any

from fedwarm.codecs.dp_rec.account import terms_of
from fedwarm.codecs.dp_rec.plan import release_of, sigma_of
from fedwarm.codecs.dp_rec.settings import DpRec
from fedwarm.privacy.views import Terms
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError
from fedwarm.training.sizes import sizes_of

LOST, GOOD = 0.1, 1.0
LITTLE = 10.0  # epsilon above which a promise says next to nothing


@dataclass(frozen=True)
class Reach:
    """The noise of a run beside its updates.

    Attributes:
        clip: C, the most Euclidean norm of an update, and so of a mean of them.
        sigma: scale of one client's noise.
        size: d, numbers of an update.
        cohort: n, clients of a round, by which a sum is divided.
        slots: vectors in a sum, each with its noise; in the local view n.
        rounds: T.
    """

    clip: float
    sigma: float
    size: int
    cohort: int
    slots: int
    rounds: int

    @staticmethod
    def of(settings: DpRec, terms: Terms, sigma: float, size: int) -> Reach:
        """That of a planned run."""
        return Reach(settings.clip, sigma, size, terms.cohort, terms.slots.count, terms.rounds)

    @property
    def noise(self) -> float:
        """Expected norm of the noise on a round's mean."""
        return self.sigma * sqrt(self.size * self.slots) / self.cohort

    @property
    def round(self) -> float:
        """Signal to noise of a round, at most."""
        return self.clip / self.noise

    @property
    def run(self) -> float:
        """Signal to noise of all rounds together, at most."""
        return self.round * sqrt(self.rounds)

    @property
    def equal(self) -> int:
        """Clients of a round with which noise and update would be equally long, each with the same sigma."""
        return ceil(self.cohort / self.round**2 - 1e-9)

    @property
    def verdict(self) -> str:
        """Whether that is enough to learn."""
        return "lost" if self.run < LOST else "poor" if self.run < GOOD else "good"

    def lines(self) -> Iterator[str]:
        """What to tell whoever starts the run."""
        yield (
            f"the mean update of {self.cohort} clients is {self.clip:g} long at most (dp-rec.clip), the noise on its {self.size} "
            f"numbers about {self.noise:.3g}: signal to noise {self.round:.2g} a round, {self.run:.2g} over "
            f"{_rounds(self.rounds)}; with sigma {self.sigma:.3g} each, {self.equal} clients a round make both equally long"
        )
        advice = "take more clients, a smaller model, more rounds or more epsilon (see `fedwarm privacy --plan`)"
        if self.verdict == "lost":
            yield f"warning: this run cannot learn, as its noise drowns its updates; {advice}"
        elif self.verdict == "poor":
            yield f"warning: this run will learn less than it could, as its noise is longer than its updates; {advice}"


def of_method(run: Any, config: Config, clients: int) -> Iterator[str]:
    """The lines of a run of so many clients, each of which sends an update of the classifier in the rounds that it takes part in.

    Args:
        run: its `relevance.Run`.
        config: its settings.
        clients: how many there are.
    """
    settings, sizes = config.of(DpRec), sizes_of(config)
    if settings.mechanism == "none" or not sizes:
        return
    cohort, rounds = max(1, round(config.run.fraction_train * clients)), config.run.num_server_rounds
    with suppress(SettingError):  # what cannot be is refused by who needs it
        terms = terms_of(settings, clients, cohort, rounds)
        sigma = sigma_of(settings, sizes, terms)
        release = release_of(settings, sizes, sigma)
        terms.tolerance(release)
        yield privacy_line(settings, terms, terms.epsilon(release))
        yield from Reach.of(settings, terms, sigma, sum(sizes)).lines()


def of_codec(run: Any, config: Config, clients: int) -> Iterator[str]:
    """The same where the codec is around another method, if that sends the classifier."""
    if run.trains and run.uploads and not run.adapts:
        yield from of_method(run, config, clients)


def privacy_line(settings: DpRec, terms: Terms, epsilon: float) -> str:
    """What the planned run promises."""
    kind = (
        "seeded, for experiments" if settings.entropy != "system" else "certified" if terms.certified else "an estimate, no bound"
    )
    whom = "of one client's images" + ("" if terms.central or terms.cohort == terms.population else ", if it takes part in all")
    little = "; above 10 that is next to no promise" if epsilon > LITTLE else ""
    return (
        f"epsilon {epsilon:.4g} at delta {terms.delta:g} {whom}, over {_rounds(terms.rounds)}: view {terms.view}, {kind}{little}"
    )


def _rounds(number: int) -> str:
    return f"{number} round{'s' * (number != 1)}"

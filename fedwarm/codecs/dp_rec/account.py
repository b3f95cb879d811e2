"""DP-REC's account: what a run's guarantee is stated for, the noise that it needs, and what was released so far."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedwarm.codecs.dp_rec.plan import release_of, sigma_of
from fedwarm.codecs.dp_rec.settings import NO_PRIVACY, DpRec
from fedwarm.coding.blocks import Blocks
from fedwarm.core.payload import PayloadError
from fedwarm.privacy.accountant import Accountant
from fedwarm.privacy.clipping import norm_of
from fedwarm.privacy.views import Release, Terms
from fedwarm.settings.fields import SettingError

DEVIATIONS = 8
WIRE, CENTRAL_WIRE = 2, 3  # of messages: 2 with nonces, or secrets that open one stream each; 3 with AES for secret streams
ESTIMATE = "epsilon of the view central_limit is an estimate: it takes the sum's noise as Gaussian; central_certified has a bound"
COHORTS = "the ledger names the cohorts, which the guarantee of a central view keeps secret: do not publish this folder"


def terms_of(settings: DpRec, population: int, cohort: int, rounds: int, participations: int = 0) -> Terms:
    """What the run's guarantee is stated for."""
    return Terms(settings.view, settings.delta, population, cohort, rounds, settings.adjacency, participations)


def statement(settings: DpRec, terms: Terms, sigma: float, epsilon: float) -> dict[str, str | float | bool]:
    """What a run says of its privacy; never epsilon alone."""
    return {
        "epsilon": epsilon,
        "delta": terms.delta,
        "view": terms.view,
        "adjacency": terms.adjacency,
        "sigma": sigma,
        "clip": settings.clip,
        "certified": terms.certified and settings.entropy == "system",
        "sampling_rate": terms.rate if terms.central else 1.0,
    }


@dataclass
class Account:
    """The account of one run's releases; the same for the method, and for the codec around any method.

    Attributes:
        settings: of DP-REC.
        terms: what the guarantee is stated for.
        sigma: scale of the noise; 0 where nothing is private.
        spent: what was booked.
    """

    settings: DpRec
    terms: Terms
    sigma: float
    spent: Accountant

    @staticmethod
    def of(settings: DpRec, terms: Terms, sizes: Sequence[int], planned: Callable[[float], float] | None = None) -> Account:
        """A new one; for `sizes` and `planned` see `plan.sigma_of`.

        Raises:
            SettingError: no noise reaches the target.
        """
        sigma = sigma_of(settings, sizes, terms, planned) if settings.mechanism != "none" else 0.0
        return Account(settings, terms, sigma, terms.accountant())

    @property
    def private(self) -> bool:
        """Whether there is anything to account for."""
        return self.settings.mechanism != "none"

    @cached_property
    def tolerance(self) -> float:
        """What messages of `poisson` are made with (see `Terms.tolerance`); 0 of all others."""
        return self.terms.tolerance(self.release(())) if self.settings.mechanism == "poisson" else 0.0

    def release(self, sizes: Sequence[int], blocks: Blocks | None = None) -> Release:
        """What one message releases (see `plan.release_of`)."""
        return release_of(self.settings, sizes, self.sigma, blocks)

    def book(self, release: Release, clients: tuple[int, ...]) -> None:
        """Account for what these clients are about to be asked for."""
        if self.private:
            self.terms.book(self.spent, release, clients)

    def after(self, release: Release, clients: tuple[int, ...]) -> float:
        """What epsilon would be after that."""
        return self.terms.after(self.spent, release, clients)

    def check_length(self, update: NDArray[Any]) -> None:
        """Refuse an update that is longer than clipped and noised ones are.

        Raises:
            PayloadError: it is.
        """
        length, longest = norm_of(update.astype(np.float64)), self.settings.clip + self.sigma * (sqrt(update.size) + DEVIATIONS)
        if length > longest * 1.0001:
            raise PayloadError(f"its update has norm {length:.3g}, more than the {longest:.3g} that clipping and noise allow")

    def statement(self) -> dict[str, Any] | None:
        """What is said of privacy; None as long as nothing was released."""
        epsilon = self.spent.epsilon() if self.private else 0.0
        if not epsilon:
            return None
        return {**statement(self.settings, self.terms, self.sigma, epsilon), "mechanism": self.settings.mechanism}

    def notes(self) -> Iterator[str]:
        """Notes for the record."""
        seeded = self.settings.entropy == "seeded"
        for text, holds in ((NO_PRIVACY, seeded), (COHORTS, self.terms.central), (ESTIMATE, not self.terms.certified)):
            if holds and self.private:
                yield text

    def state(self) -> dict[str, Any]:
        """State for the checkpoint, as JSON."""
        return {"account": self.spent.state(), "sigma": self.sigma, "wire": CENTRAL_WIRE}

    def restore(self, facts: Mapping[str, Any]) -> None:
        """Take up what `state` gave.

        Raises:
            SettingError: the run was begun by an older version, whose candidates other runs of its seed share, and whose clients
                of a central view can draw its cohorts and padding.
        """
        least = CENTRAL_WIRE if self.terms.central else WIRE
        if self.private and (self.settings.mechanism == "coding" or self.terms.central) and facts.get("wire", 0) < least:
            raise SettingError("this run's messages are of an older version, which promises less; start over with --fresh")
        self.spent, self.sigma = Accountant.from_state(facts["account"]), float(facts["sigma"])

"""What a node allows at most, whatever a run asks for: set in its own node configuration, where no server can lower it."""

from __future__ import annotations

from dataclasses import dataclass

from fedwarm.core.refusals import EPSILON, NOISE, OPEN, ROUNDS, RefusalError
from fedwarm.settings.fields import Group, setting


@dataclass(frozen=True)
class Limits(Group, prefix="limits"):
    """Floors and ceilings of a client's own; 0: none."""

    least_noise: float = setting(
        0.0,
        "a node's own limit: it sends nothing with less noise than this, a standard deviation in units of the clipping "
        "norm; 0: no limit",
        low=0.0,
        node=True,
        free=True,
    )
    most_epsilon: float = setting(
        0.0,
        "a node's own limit: highest epsilon of everything that it sends, over all runs in its client folder; 0: no limit",
        low=0.0,
        node=True,
        free=True,
    )
    most_rounds: int = setting(
        0,
        "a node's own limit: most private messages or trainings in a run; 0: no limit",
        low=0,
        node=True,
        free=True,
        when=lambda r: r.accounted,
    )
    delta: float = setting(
        1e-5,
        "delta at which limits.most-epsilon is computed",
        low=1e-300,
        high=0.5,
        node=True,
        free=True,
        when=lambda r: r["limits.most-epsilon"] > 0,
    )

    @property
    def private(self) -> bool:
        """Whether only private runs can keep to them."""
        return bool(self.least_noise or self.most_epsilon)

    def check_run(self, private: bool, system: bool) -> None:
        """Refuse a run that promises nothing.

        Args:
            private: whether what a client sends is under noise at all.
            system: whether its draws are the operating system's.

        Raises:
            RefusalError: it promises nothing, and these limits ask for more.
        """
        name = f"limits.{'least-noise' if self.least_noise else 'most-epsilon'} of this node"
        if self.private and not private:
            raise RefusalError(OPEN, f"{name} allows private runs alone, and this one sends updates without noise")
        if self.private and not system:
            raise RefusalError(OPEN, f"{name} needs noise from the operating system; set entropy = 'system'")

    def check_noise(self, noise: float) -> None:
        """Refuse less noise, in units of the clip, than these limits allow.

        Raises:
            RefusalError: it is less.
        """
        if noise < self.least_noise:
            raise RefusalError(
                NOISE, f"limits.least-noise of this node is {self.least_noise:g}, the run's is {noise:.4g} of its clip"
            )

    def check_count(self, done: int) -> None:
        """Refuse one more message or training after so many.

        Raises:
            RefusalError: there may be no more.
        """
        if self.most_rounds and done >= self.most_rounds:
            raise RefusalError(ROUNDS, f"limits.most-rounds of this node is {self.most_rounds}, and {done} are done")

    def check_epsilon(self, epsilon: float) -> None:
        """Refuse what would bring the account of all runs to more than these limits allow.

        Raises:
            RefusalError: it would.
        """
        if self.most_epsilon and epsilon > self.most_epsilon:
            said = f"limits.most-epsilon of this node is {self.most_epsilon:g}"
            raise RefusalError(EPSILON, f"{said}, and its account over all runs would come to {epsilon:.4g}")

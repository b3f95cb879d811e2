"""A plan that `fedwarm privacy` is asked about: DP-REC's settings, and the run that they meet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from fedwarm.codecs.dp_rec import plan as dp_rec
from fedwarm.codecs.dp_rec.account import terms_of
from fedwarm.codecs.dp_rec.settings import BLOCKWISE, DpRec
from fedwarm.coding.blocks import Blocks, even
from fedwarm.coding.rotation import padded
from fedwarm.privacy.views import Release, Terms
from fedwarm.settings.fields import SettingError, checked, keys, setting

COMMON = {"mechanism", "clip", "noise_multiplier", "target_epsilon", "delta"}
OF_UPDATES = COMMON | {"sigma", "view", "adjacency", "cohort", "population", "rounds", "participations", "update_size"}
OF_STEPS, OF_BLOCKS = COMMON | {"rate", "steps"}, OF_UPDATES | {"blocks", "block_size"}
OPTIONS = {
    "coding": OF_BLOCKS | {"bits"}, "poisson": OF_BLOCKS | {"block_norm"}, "gaussian": OF_UPDATES,
    "server": OF_UPDATES | {"bits"}, "dp-sgd": OF_STEPS,
}  # fmt: skip
NOISE = ("sigma", "noise_multiplier", "target_epsilon")
MOST_BLOCKS = 1 << 22
ANY_SIZE = 1 << 52


@dataclass(frozen=True)
class Question(DpRec):
    """A plan: DP-REC's settings, and what they meet. One of sigma, noise_multiplier, target_epsilon; 0 says "not given".

    Attributes:
        mechanism: `coding` (random code words), `poisson` (code words of the update plus noise), `gaussian` (that, uncompressed),
            `server` (rounded, under the server's noise), or `dp-sgd` (noise in local training).
        noise_multiplier: z = sqrt(n) sigma / C of n updates in a sum; dp-sgd: sigma / C of a step.
        blocks: B, blocks of a message; 0: by `block_size`, else as the block-size rule has it.
        update_size: d, numbers in an update; 0: unknown, priced so that it holds for any with 3 numbers a block or more.
        cohort, population, rounds, participations: see `privacy.views.Terms`.
        rate, steps: dp-sgd's chance that an example is drawn for a step, and its steps in all rounds.

    Raises:
        SettingError: a value out of its range, two that contradict each other, or one that is missing.
    """

    prefix: ClassVar[str] = ""
    mechanism: str = setting("coding", "", choices=tuple(OPTIONS))
    noise_multiplier: float = setting(0.0, "", low=0.0)
    blocks: int = setting(0, "", low=0, high=MOST_BLOCKS)
    update_size: int = setting(0, "", low=0, high=2**40)
    cohort: int = setting(0, "", low=0)
    population: int = setting(0, "", low=0, high=10**7)
    rounds: int = setting(0, "", low=0, high=10**9)
    participations: int = setting(0, "", low=0, high=10**9)
    rate: float = setting(0.0, "", low=0.0, high=1.0)
    steps: int = setting(0, "", low=0, high=10**9)

    def __post_init__(self) -> None:
        for key, _, f in keys((Question,)):
            object.__setattr__(self, f.name, checked(f"--{key}", getattr(self, f.name), f))
            if f.name not in OPTIONS[self.mechanism] and getattr(self, f.name) != f.default:
                raise SettingError(f"--{key} cannot be used with --mechanism {self.mechanism}; leave it out")
        ways = [name for name in NOISE if name in OPTIONS[self.mechanism]]
        given = [name for name in ways if getattr(self, name)]
        if len(given) != 1:
            raise SettingError(f"give exactly one of {_options(ways)}; given: {_options(given) or 'none'}")
        self._complete()

    def _complete(self) -> None:
        central, sgd = self.view != "local", self.mechanism == "dp-sgd"
        for name, needed, meaning in (
            ("cohort", central or (self.noise_multiplier > 0 and not sgd), "clients of a round"),
            ("population", central, "clients that cohorts are drawn from"),
            ("rate", sgd, "the chance that an example is drawn for a step"),
            ("steps", sgd, "steps in all rounds"),
            ("update_size", self.block_size > 0, "numbers in an update"),
        ):
            if needed and not getattr(self, name):
                raise SettingError(f"{_options([name])} is missing; give it: {meaning}")
        if central and self.participations:
            raise SettingError(
                f"--participations works only in the local view, as in {self.view} nobody sees who took part; leave it out"
            )
        if self.blocks and self.block_size:
            raise SettingError("give --blocks or --block-size, not both")

    @property
    def terms(self) -> Terms:
        """What the guarantee is stated for."""
        cohort, rounds = self.cohort or 1, self.rounds or self.participations or 1
        return terms_of(self, self.population or cohort, cohort, rounds, self.participations)

    def blocks_at(self, sigma: float) -> Blocks:
        """The blocks; where the update's size is unknown, equal ones of one number, whose caps are highest."""
        count = self.blocks or dp_rec.block_count(self, self.update_size or ANY_SIZE, sigma)
        total = padded(self.update_size, dp_rec.rotation_of(self)) if self.update_size else count
        if count > total:
            raise SettingError(f"--blocks {count} is more than the {total} numbers of an update; give at most {total}")
        if count > MOST_BLOCKS:
            raise SettingError(
                f"{count} blocks in a message; at most {MOST_BLOCKS} can be accounted for: give more noise (--sigma) "
                "or larger blocks (--block-size)"
            )
        return even(total, count) if not self.block_size else dp_rec.blocks_of(self, (self.update_size,), sigma)

    def release(self, sigma: float) -> Release:
        """What one message releases."""
        return dp_rec.release_of(self, (), sigma, self.blocks_at(sigma) if self.mechanism in BLOCKWISE else None)


def _options(names: Iterable[str]) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)

"""How a study chooses an arm's settings: at seeds of their own and on held-back examples; no test example plays a part."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedwarm.report.studied import At, followed
from fedwarm.settings.fields import Value
from fedwarm.settings.text import literal

LAST = -1
Settings = Mapping[str, Value]


@dataclass(frozen=True)
class Found:
    """What one run came to: its rounds, the last one, and seconds of the server alone and of the whole run."""

    folder: Path
    seed: int
    rounds: list[At]
    last: At
    server: float
    seconds: float

    def at(self, number: int) -> At | None:
        """What it had reached by a round, or at its end (`LAST`); None where that was not measured."""
        if number == LAST:
            return self.last
        return next((at for at in self.rounds if at.number == number and any(v is not None for v in at.found.values())), None)


@dataclass(frozen=True)
class Choice:
    """What an arm's settings were chosen from.

    Attributes:
        values: each combination with its accuracy on held-back examples after the last round; None where it failed.
        taken: the best of them; None where nothing could be chosen.
    """

    values: Sequence[tuple[Settings, float | None]]
    taken: Settings | None

    def text(self) -> list[str]:
        """A line a combination, the one that was taken first, then from the best to the worst."""
        ranked = sorted(self.values, key=lambda pair: (pair[0] != self.taken, -(pair[1] if pair[1] is not None else -1.0)))
        return [f"{words(chosen)}: {'failed' if value is None else f'{100 * value:.1f} %'}" for chosen, value in ranked]


def words(settings: Settings) -> str:
    """Settings as `key=value, key=value`."""
    return ", ".join(f"{key}={literal(value)}" for key, value in settings.items())


def chosen_of(tried: Sequence[tuple[Settings, Sequence[Found | None]]], watch: str) -> Choice:
    """What is best after the last round on held-back examples.

    These are few: of those that end alike, the one that is best over all rounds is taken, as it is there sooner.

    Args:
        tried: combinations, each with its runs at the seeds of tuning; None for one that failed.
        watch: the accuracy that counts.
    """
    values = [(chosen, _held(runs, watch)) for chosen, runs in tried]
    ways = [_on_the_way(runs, watch) for _, runs in tried]
    ranks = [(-math.inf if value is None else round(value, 9), way) for (_, value), way in zip(values, ways, strict=True)]
    best, value = values[ranks.index(max(ranks))]
    return Choice(values, None if value is None else best)


def _held(runs: Sequence[Found | None], watch: str) -> float | None:
    """The mean over runs of what held-back examples say at the end; None where one is missing."""
    held = [followed(run.last.held, watch) for run in runs if run is not None]
    known = [value for value in held if value is not None]
    return statistics.fmean(known) if len(known) == len(runs) else None


def _on_the_way(runs: Sequence[Found | None], watch: str) -> float:
    """The mean over runs and rounds of what held-back examples say."""
    held = [followed(at.held, watch) for run in runs if run is not None for at in run.rounds]
    return statistics.fmean([value for value in held if value is not None] or [-math.inf])

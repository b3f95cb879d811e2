"""How a study chooses an arm's settings: at seeds of their own and on held-back examples; no test example plays a part."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
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
        each: the same by round, of rounds that are chosen for by themselves.
    """

    values: Sequence[tuple[Settings, float | None]]
    taken: Settings | None
    each: Mapping[int, Settings | None] = field(default_factory=dict)

    def wanted(self) -> list[Settings]:
        """Everything that was taken, each once; first what is for the end."""
        found: list[Settings] = []
        for settings in (self.taken, *self.each.values()):
            if settings is not None and settings not in found:
                found.append(settings)
        return found

    def ends(self, settings: Settings) -> list[str]:
        """Which numbers are the first or the last of those that were tried: beyond them there may be better ones."""
        said = []
        for key, value in settings.items():
            known = {n for each, _ in self.values if isinstance(n := each[key], (int, float)) and not isinstance(n, bool)}
            if len(known) > 1 and value in (min(known), max(known)):
                said.append(f"{key} is the {'smallest' if value == min(known) else 'largest'} tried")
        return said

    def text(self) -> list[str]:
        """A line a combination, the one that was taken first, then from the best to the worst; then what single rounds took.

        What was taken at an end of the numbers that were tried says so.
        """
        ranked = sorted(self.values, key=lambda pair: (pair[0] != self.taken, -(pair[1] if pair[1] is not None else -1.0)))
        lines = [
            f"{words(chosen)}: {'failed' if value is None else f'{100 * value:.1f} %'}"
            + (self._ends(chosen) if chosen == self.taken else "")
            for chosen, value in ranked
        ]
        taken = ((number, settings) for number, settings in self.each.items() if settings is not None)
        return lines + [f"round {number}: {words(settings)}{self._ends(settings)}" for number, settings in taken]

    def _ends(self, settings: Settings) -> str:
        said = self.ends(settings)
        return f" ({', '.join(said)})" if said else ""


def words(settings: Settings) -> str:
    """Settings as `key=value, key=value`."""
    return ", ".join(f"{key}={literal(value)}" for key, value in settings.items())


def chosen_of(tried: Sequence[tuple[Settings, Sequence[Found | None]]], watch: str, rounds: Sequence[int] = ()) -> Choice:
    """What is best on held-back examples after the last round, and after each of some others.

    These are few: of those that end alike, the one that is best over all rounds so far is taken, as it is there sooner.

    Args:
        tried: combinations, each with its runs at the seeds of tuning; None for one that failed.
        watch: the accuracy that counts.
        rounds: those that are chosen for by themselves; one that was not measured has what is chosen for the end.
    """
    values = [(chosen, _held(runs, watch, LAST)) for chosen, runs in tried]
    taken = _best(tried, watch, LAST)
    return Choice(values, taken, {number: _best(tried, watch, number) or taken for number in rounds})


def _best(tried: Sequence[tuple[Settings, Sequence[Found | None]]], watch: str, number: int) -> Settings | None:
    """The best combination at a round; None where none could be measured there."""
    held = [_held(runs, watch, number) for _, runs in tried]
    ways = [_on_the_way(runs, watch, number) for _, runs in tried]
    ranks = [(-math.inf if value is None else round(value, 9), way) for value, way in zip(held, ways, strict=True)]
    first = ranks.index(max(ranks))
    return None if held[first] is None else tried[first][0]


def _held(runs: Sequence[Found | None], watch: str, number: int) -> float | None:
    """The mean over runs of what held-back examples say at a round; None where one is missing."""
    held = [followed(at.held, watch) for run in runs if run is not None and (at := run.at(number))]
    known = [value for value in held if value is not None]
    return statistics.fmean(known) if known and len(known) == len(runs) else None


def _on_the_way(runs: Sequence[Found | None], watch: str, number: int) -> float:
    """The mean over runs and rounds, up to that one, of what held-back examples say."""
    rounds = [at for run in runs if run is not None for at in run.rounds if number == LAST or at.number <= number]
    held = [followed(at.held, watch) for at in rounds]
    return statistics.fmean([value for value in held if value is not None] or [-math.inf])


def together(end: Found, others: Mapping[int, Found]) -> Found:
    """One course of several runs: each round of `others` as that run had it, and the end, and round 0, of `end`."""
    rounds = [at for number, run in others.items() if (at := run.at(number)) and number != end.last.number]
    kept = [at for at in end.rounds if at.number in (0, end.last.number)]
    return replace(end, rounds=sorted(rounds + kept, key=lambda at: at.number))

"""A study: arms by seeds with equal splits, settings chosen on examples that clients hold back, paired differences at the end.

Runs that are complete are read, those that were broken off are resumed, and those that fail are noted while the study goes on; so
the same command finishes a study that was stopped.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fedwarm.core.failures import RunError
from fedwarm.core.forms import second_text
from fedwarm.core.terminal import say
from fedwarm.launch.interrupt import interruptible
from fedwarm.launch.request import Request, engine_of
from fedwarm.launch.several import announce, check_all, completed_run, is_done, run_one
from fedwarm.launch.study_choice import Choice, Found, chosen_of, together, words
from fedwarm.launch.study_file import Arm, Study, read_study
from fedwarm.launch.study_found import finish
from fedwarm.launch.sweep_file import Job, named
from fedwarm.record.folder import runs_root
from fedwarm.record.lock import Lock, refuse_busy
from fedwarm.report.studied import course, last, server_seconds
from fedwarm.settings.fields import SettingError, Value
from fedwarm.settings.kinds import ENGINES
from fedwarm.settings.text import parse_overrides

LEAST_SEEDS = 5


def run_study(
    path: Path,
    out: Path | None = None,
    *,
    seeds: int = 0,
    engine: str = ENGINES.first,
    workers: int = 0,
    fresh: bool = False,
    table: bool = False,
    overrides: Sequence[str] = (),
) -> Path:
    """Run what is missing of a study, then print and write what came of it; the folder that holds it all.

    Args:
        path: the study's file.
        out: the folder; None: `runs/study-<name of the file>`.
        seeds: only so many of the file's seeds; 0: all.
        engine, workers: as of one run.
        fresh: begin every run anew.
        table: run nothing; write what is there.
        overrides: settings of every run, as `-c` takes them; they win over the file's `[settings]`.

    Raises:
        SettingError: the file or a run of it cannot be, or the folder holds runs with other settings; nothing was run.
        RunError: some runs failed; all others are done, and the table is written.
    """
    study = read_study(path, parse_overrides([*overrides]))
    if seeds > len(study.seeds):
        raise SettingError(f"--seeds {seeds}, but {path} has {len(study.seeds)}; add seeds to the file")
    study = replace(study, seeds=study.seeds[:seeds]) if seeds else study
    if len(study.seeds) < LEAST_SEEDS:
        say(f"study: {len(study.seeds)} seeds are few; with {LEAST_SEEDS} or more, intervals begin to say something")
    folder = (out or runs_root() / f"study-{path.stem}").absolute()
    common = Request("", engine, clients=study.clients, workers=workers)
    chosen = engine_of(engine, common.asked)
    work = Work(study, folder, common, fresh, only_read=table)
    if not table:
        clients = chosen.clients(common.asked)
        check_all([study.job(arm, study.seeds[0], study.tuned(arm).choices()[0]) for arm in study.arms], clients, chosen.real)
        refuse_busy(folder)
    with Lock(folder).held(), interruptible(lambda: "interrupted; the same command goes on with the study"):
        work.all()
        finish(study, folder, work.found, work.choices, work.failures)
    for name, line in work.failures.items():
        say(f"failed: {name}: {line}")
    if work.failures:
        raise RunError(f"{len(work.failures)} runs failed; the same command tries them again")
    return folder


@dataclass
class Work:
    """A study under way: what was chosen, what was found, and how long the rest will take.

    Attributes:
        found: of each arm the runs of the table, by seed.
        choices: of each arm with a grid, what was tried and what was taken.
        failures: the last line of each run that failed, by its name.
    """

    study: Study
    folder: Path
    common: Request
    fresh: bool = False
    only_read: bool = False
    found: dict[str, dict[int, Found]] = field(default_factory=dict)
    choices: dict[str, Choice] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    paces: dict[str, list[float]] = field(default_factory=dict)
    tried: set[Path] = field(default_factory=set)

    def all(self) -> None:
        """Choose the settings of every arm, then run the table, seed by seed."""
        self.found = {arm.name: {} for arm in self.study.arms}
        self.left = self._planned()
        for arm in self.study.arms:
            if arm.grid:
                self._choose(arm)
        self.left = self._table()
        for seed in self.study.seeds:
            for arm in self.study.arms:
                if (found := self._of_table(arm, seed)) is not None:
                    self.found[arm.name][seed] = found

    def _planned(self) -> list[tuple[str, int]]:
        """Arm and seed of every run that the study has, in the order in which they are done."""
        tuned = [arm for arm in self.study.arms if arm.grid]
        return [(arm.name, seed) for arm in tuned for _ in arm.choices() for seed in self.study.tuning] + self._table()

    def _table(self) -> list[tuple[str, int]]:
        """Arm and seed of every run of the table, as far as settings are chosen."""
        choices = {arm.name: self.choices.get(self.study.tuned(arm).name) for arm in self.study.arms}
        times = {name: 1 if choice is None else max(1, len(choice.wanted())) for name, choice in choices.items()}
        return [(arm.name, seed) for seed in self.study.seeds for arm in self.study.arms for _ in range(times[arm.name])]

    def _of_table(self, arm: Arm, seed: int) -> Found | None:
        """What an arm came to: of one run, or where rounds are chosen for by themselves, each round of the run that is for it."""
        settings = self._settings(arm)
        if settings is None or (end := self.run(arm, seed, settings)) is None:
            return None
        of = self.study.tuned(arm)
        if not (of.grid and self.study.each):
            return end
        runs = {number: self.run(arm, seed, taken) for number, taken in self.choices[of.name].each.items() if taken is not None}
        return together(end, {number: run for number, run in runs.items() if run is not None})

    def _settings(self, arm: Arm) -> Mapping[str, Value] | None:
        """What was chosen for an arm; None where nothing could be."""
        of = self.study.tuned(arm)
        return self.choices[of.name].taken if of.grid else {}

    def _choose(self, arm: Arm) -> None:
        """Try every combination at the tuning seeds, and take the one that is best on examples that clients hold back."""
        tried = [(chosen, [self.run(arm, seed, chosen) for seed in self.study.tuning]) for chosen in arm.choices()]
        choice = self.choices[arm.name] = chosen_of(tried, self.study.watch, self.study.rounds if self.study.each else ())
        if choice.taken is not None and not self.only_read:
            best = max(value for _, value in choice.values if value is not None)
            told = f"{words(choice.taken)} is best of {len(tried)} on held-back examples, {100 * best:.1f} %"
            say(f"study: {arm.name}: {told}")

    def run(self, arm: Arm, seed: int, chosen: Mapping[str, Value]) -> Found | None:
        """What a run came to: read where it is complete, else run now; None where it failed, or is not there to be read."""
        first, before = None, None
        if arm.start:
            settings = self._settings(of := self.study.arm(arm.start))
            base = None if settings is None else self.run(of, seed, settings)
            if base is None:
                if not self.only_read:
                    self.failures[f"{named(arm.name)}-seed-{seed}"] = f"the run that it starts from, {arm.start}, is missing"
                return None
            first, before = base.folder, base.last
        job = self.study.job(arm, seed, chosen, first)
        place = self.folder / job.name
        if not self._made(job, place, arm):
            return None
        run = completed_run(place, ledger=True)
        if run is None:
            return None
        rounds = course(run, before)
        return Found(place, run.seed, rounds, last(rounds, self.study.last), server_seconds(run), run.seconds)

    def _made(self, job: Job, place: Path, arm: Arm) -> bool:
        """Whether the run is complete, after it was run if it had to be."""
        if place in self.tried:
            return job.name not in self.failures
        if self.only_read:
            return True
        self.tried.add(place)
        begun, done = time.monotonic(), not self.fresh and is_done(job, place, self.study.clients, "study")
        if not done:
            self._announce(job)
            if line := run_one(job, place, self.common, self.fresh):
                self.failures[job.name] = line
            self.paces.setdefault(arm.name, []).append(time.monotonic() - begun)
        elif (run := completed_run(place)) is not None:
            self.paces.setdefault(arm.name, []).append(run.seconds)
        if (arm.name, job.seed) in self.left:
            self.left.remove((arm.name, job.seed))
        return job.name not in self.failures

    def _announce(self, job: Job) -> None:
        total = len(self._planned())
        text = f"run {total - len(self.left) + 1} of {total}: {job.cell}, seed {job.seed}"
        known = [seconds for paces in self.paces.values() for seconds in paces]
        if known:
            usual = statistics.fmean(known)
            rest = sum(statistics.fmean(self.paces.get(name, [usual])) for name, _ in self.left)
            text += f" (about {second_text(rest)} left for all)"
        announce("study", text, total - len(self.left), total)

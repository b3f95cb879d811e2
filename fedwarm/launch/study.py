"""A study: arms by seeds with equal splits, settings chosen on examples that clients hold back, paired differences at the end.

Runs that are complete are read, those that were broken off are resumed, and those that fail are noted while the study goes on; so
the same command finishes a study that was stopped. With several jobs, each run begins as soon as those that it needs are there.
"""

from __future__ import annotations

import json
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

from fedwarm.core.failures import RunError
from fedwarm.core.files import write_text
from fedwarm.core.forms import second_text
from fedwarm.core.terminal import say
from fedwarm.launch.crew import Crew, refuse_jobs
from fedwarm.launch.interrupt import interruptible
from fedwarm.launch.request import Request, engine_of
from fedwarm.launch.several import announce, check_all, completed_run, is_done, run_one
from fedwarm.launch.study_choice import Choice, Found, chosen_of, together, words
from fedwarm.launch.study_file import Arm, Study, read_study
from fedwarm.launch.study_found import finish
from fedwarm.launch.sweep_file import Job, named
from fedwarm.record.folder import RunFolder, runs_root
from fedwarm.record.lock import Lock, refuse_busy
from fedwarm.report.studied import course, last, server_seconds
from fedwarm.settings.fields import SettingError, Value
from fedwarm.settings.kinds import ENGINES
from fedwarm.settings.text import parse_overrides

LEAST_SEEDS = 5
STARTS = "starts.json"  # the model that each run began at which starts from another run: its SHA-256


def run_study(
    path: Path,
    out: Path | None = None,
    *,
    seeds: int = 0,
    engine: str = ENGINES.first,
    workers: int = 0,
    jobs: int = 1,
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
        jobs: runs at once, each with its share of the cores.
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
    work = Work(study, folder, common, fresh, only_read=table, jobs=jobs)
    if not table:
        clients = chosen.clients(common.asked)
        first = [study.job(arm, study.seeds[0], study.tuned(arm).choices()[0]) for arm in study.arms]
        refuse_jobs(jobs, engine, chosen.real, first)
        check_all(first, clients, chosen.real)
        refuse_busy(folder)
    with Lock(folder).held(), interruptible(lambda: "interrupted; the same command goes on with the study"):
        if jobs > 1 and not table:
            work.at_once()
        work.all()
        choices = {arm.name: work.choices[arm.name] for arm in study.arms if arm.name in work.choices}
        finish(study, folder, work.found, choices, work.failures)
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
        paces: seconds of the runs that are there, by arm.
        tried: the arm of each run that is done or failed, by its folder.
        known: what runs came to that were read.
        ready: where runs are only looked for, those that are missing and can be run, by name.
        under_way: those of them that other processes are at.
        waits: whether a run that was asked for is still to come.
    """

    study: Study
    folder: Path
    common: Request
    fresh: bool = False
    only_read: bool = False
    found: dict[str, dict[int, Found]] = field(default_factory=dict)
    choices: dict[str, Choice] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    jobs: int = 1
    paces: dict[str, list[float]] = field(default_factory=dict)
    tried: dict[Path, str] = field(default_factory=dict)
    known: dict[Path, Found] = field(default_factory=dict)
    ready: dict[str, Job] | None = None
    under_way: set[str] = field(default_factory=set)
    waits: bool = False

    def at_once(self) -> None:
        """Run what is missing, several at once: each as soon as those are there by which it is chosen or from which it starts."""
        self._ready()
        left = self._planned().total() - len(self.tried)
        with closing(Crew(max(1, min(self.jobs, left)), self.folder, self.common, self.fresh)) as crew:
            for ended in crew.work(self._ready, self._begins):
                self.under_way.remove(ended.job.name)
                self._ended(ended.job, ended.line, ended.seconds)
                say(f"study: {ended.job.cell}, seed {ended.job.seed}: {ended.told}")
        self.ready = None

    def _ready(self) -> list[Job]:
        """The runs that are missing and lack nothing but to be run, in the order in which they are wanted."""
        self.ready = {}
        self.all()
        return [*self.ready.values()]

    def _begins(self, job: Job) -> None:
        self._announce(job, len(self.under_way))
        self.under_way.add(job.name)

    def all(self) -> None:
        """Choose the settings of every arm, then run the table, seed by seed."""
        self.found = {arm.name: {} for arm in self.study.arms}
        for arm in self.study.arms:
            if arm.grid and arm.name not in self.choices:
                self._choose(arm)
        for seed in self.study.seeds:
            for arm in self.study.arms:
                if (found := self._of_table(arm, seed)) is not None:
                    self.found[arm.name][seed] = found

    def _planned(self) -> Counter[str]:
        """How many runs of each arm the study has, as far as settings are chosen."""
        choices = {arm.name: self.choices.get(self.study.tuned(arm).name) for arm in self.study.arms}
        times = {name: 1 if choice is None else max(1, len(choice.wanted())) for name, choice in choices.items()}
        found = Counter({name: count * len(self.study.seeds) for name, count in times.items()})
        begun: set[str] = set()
        for arm in self.study.arms:
            if arm.grid:
                found[arm.name] += len(arm.choices()) * len(self.study.tuning)
                begun |= {each.name for each in self._before(arm) if not each.grid}
        found.update({name: len(self.study.tuning) for name in begun})
        return found

    def _before(self, arm: Arm) -> list[Arm]:
        """The arms from which one starts, and these in turn."""
        found: list[Arm] = []
        while arm.start:
            found.append(arm := self.study.arm(arm.start))
        return found

    def _of_table(self, arm: Arm, seed: int) -> Found | None:
        """What an arm came to: of one run, or where rounds are chosen for by themselves, each round of the run that is for it."""
        settings, of = self._settings(arm), self.study.tuned(arm)
        end = None if settings is None else self.run(arm, seed, settings)
        if settings is None or (end is None and self.ready is None) or not (of.grid and self.study.each):
            return end
        runs = {number: self.run(arm, seed, taken) for number, taken in self.choices[of.name].each.items() if taken is not None}
        return None if end is None else together(end, {number: run for number, run in runs.items() if run is not None})

    def _settings(self, arm: Arm) -> Mapping[str, Value] | None:
        """What was chosen for an arm; None where nothing could be, or is not yet."""
        of = self.study.tuned(arm)
        if not of.grid:
            return {}
        self.waits |= of.name not in self.choices
        return self.choices[of.name].taken if of.name in self.choices else None

    def _choose(self, arm: Arm) -> None:
        """Try every combination at the tuning seeds, and take the one that is best on examples that clients hold back."""
        self.waits = False
        tried = [(chosen, [self.run(arm, seed, chosen) for seed in self.study.tuning]) for chosen in arm.choices()]
        if self.waits:
            return
        choice = self.choices[arm.name] = chosen_of(tried, self.study.watch, self.study.rounds if self.study.each else ())
        if choice.taken is not None and not self.only_read:
            best = max(value for _, value in choice.values if value is not None)
            told = f"{words(choice.taken)} is best of {len(tried)} on held-back examples, {100 * best:.1f} %"
            say("; ".join([f"study: {arm.name}: {told}", *choice.ends(choice.taken)]))

    def run(self, arm: Arm, seed: int, chosen: Mapping[str, Value]) -> Found | None:
        """What a run came to: read where it is complete, else run now; None where it failed, or is not there to be read."""
        first, before = None, None
        if arm.start:
            others, self.waits = self.waits, False
            settings = self._settings(of := self.study.arm(arm.start))
            base = None if settings is None else self.run(of, seed, settings)
            comes, self.waits = self.waits, self.waits or others
            if base is None:
                if not self.only_read and not comes:
                    self.failures[f"{named(arm.name)}-seed-{seed}"] = f"the run that it starts from, {arm.start}, is missing"
                return None
            first, before = base.folder, base.last
        job = self.study.job(arm, seed, chosen, first)
        place = self.folder / job.name
        if place not in self.known:
            if first is not None and not self._same_start(place, first):
                return None
            run = completed_run(place, ledger=True) if self._made(job, place) else None
            if run is None:
                return None
            rounds = course(run, before)
            self.known[place] = Found(place, run.seed, rounds, last(rounds, self.study.last), server_seconds(run), run.seconds)
        return self.known[place]

    def _same_start(self, place: Path, first: Path) -> bool:
        """Whether a run began at the model that the run before it has now; it is started over where it did not.

        Of a run that is only to be read, False there.
        """
        kept = self.folder / STARTS
        told = json.loads(kept.read_text()) if kept.is_file() else {}
        model = first / "model.safetensors"
        now = sha256(model.read_bytes()).hexdigest() if model.is_file() else ""
        if told.get(place.name, now) != now:
            if self.only_read:
                return False
            say(f"study: {place.name} starts over, as the run that it starts from has another model now")
            RunFolder(place).clear()
        if not self.only_read and told.get(place.name) != now:
            write_text(kept, json.dumps({**told, place.name: now}, indent=1) + "\n")
        return True

    def _made(self, job: Job, place: Path) -> bool:
        """Whether the run is complete, after it was run if it had to be; where runs are only looked for, it is one of these."""
        if place in self.tried:
            return job.name not in self.failures
        if self.only_read:
            return is_done(job, place, self.study.clients, "study")
        if job.name not in self.under_way and not self.fresh and is_done(job, place, self.study.clients, "study"):
            run = completed_run(place)
            self._ended(job, "", None if run is None else run.seconds)
        elif self.ready is not None:
            self.ready[job.name] = job
            self.waits = True
        else:
            self._announce(job)
            begun = time.monotonic()
            line = run_one(job, place, self.common, self.fresh)
            self._ended(job, line, time.monotonic() - begun)
        return place in self.tried and job.name not in self.failures

    def _ended(self, job: Job, line: str, seconds: float | None) -> None:
        """Note that a run is done, or that it failed with a line; a run's label is its arm's name."""
        self.tried[self.folder / job.name] = job.label
        if line:
            self.failures[job.name] = line
        if seconds is not None:
            self.paces.setdefault(job.label, []).append(seconds)

    def _announce(self, job: Job, others: int = 0) -> None:
        """Say that a run begins, while others are under way."""
        planned, done = self._planned(), Counter(self.tried.values())
        total, number = planned.total(), done.total() + others
        text = f"run {number + 1} of {total}: {job.cell}, seed {job.seed}"
        known = [seconds for paces in self.paces.values() for seconds in paces]
        if known:
            usual = statistics.fmean(known)
            left = {name: max(0, count - done[name]) for name, count in planned.items()}
            rest = sum(count * statistics.fmean(self.paces.get(name, [usual])) for name, count in left.items())
            text += f" (about {second_text(rest / max(1, min(self.jobs, sum(left.values()))))} left for all)"
        announce("study", text, number, total)

"""What a study's file says: arms, seeds, and how each arm's settings are chosen.

title = "FedAvg and FedProx"
seeds = [1, 2, 3, 4, 5]       # of the table; the same for every arm, so that differences are paired
clients = 4
baseline = "FedAvg"           # what the others are compared with; the first arm if it is not named
watch = "global"              # or "own": the model that each client would use; "client:2": the global model at client 2, from 0
also = ["client:2"]           # whose differences the table shows beside the watched one's; settings are chosen by what is watched
rounds = [1, 5]               # rounds that the table shows beside the last
last = 1                      # the last row, and what settings are chosen by, is the mean of so many last evaluations
[settings]                    # of every run
num-server-rounds = 10
data.validation-fraction = 0.2
[tuning]                      # settings are chosen here, on examples that clients hold back, before a test example is seen
seeds = [101]                 # few examples are held back: take several seeds; of values that end alike the sooner one wins
grid = { learning-rate = [0.01, 0.05] }
each-round = true             # each of `rounds` has its own choice: its row is of the run that was best after so many rounds,
                              # as good as a shorter run where no setting looks at how many rounds are to come
[[arms]]
name = "FedAvg"
method = "fedavg"
[[arms]]
name = "FedProx"
method = "fedprox"
settings = { local-epochs = 2 }
grid = { learning-rate = [0.01, 0.05], fedprox.mu = [0.01, 0.1] }   # in the place of the one above
start = "FedAvg"              # begins with that arm's last model of the same seed, whose cost counts, too; where a setting has
                              # {start} in it, the folder of that run stands there instead, and nothing else is taken from it
vary = { local-epochs = [2, 10] }                                   # makes one arm of each value
chosen = "FedProx"            # takes what was chosen for that arm, in the place of a grid of its own
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedwarm.catalogue import parse
from fedwarm.data.settings import Data
from fedwarm.launch.sweep_file import Job, check_kinds, grid_of, named, table_of, values_of
from fedwarm.report.compare import concerns
from fedwarm.report.studied import WATCHED, is_followed
from fedwarm.settings.fields import SettingError, Value, near
from fedwarm.settings.kinds import METHODS
from fedwarm.settings.text import flat, literal

KINDS: dict[str, type] = {
    "title": str, "seeds": list, "clients": int, "baseline": str, "watch": str, "also": list, "rounds": list, "last": int,
    "settings": dict, "tuning": dict, "arms": list,
}  # fmt: skip
ARM: dict[str, type] = {"name": str, "method": str, "settings": dict, "grid": dict, "vary": dict, "start": str, "chosen": str}
TUNING: dict[str, type] = {"seeds": list, "grid": dict, "each-round": bool}
MODEL, FIRST = "model.safetensors", "{start}"
ELSEWHERE = {
    "method": "each arm has its method", "seed": "seeds stand in `seeds`", "out": "the folder is given by --out",
    "resume": "a study always goes on with what is there",
}  # fmt: skip


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        name: in the table.
        settings: what it has beside what all arms have.
        grid: values to choose from, by setting.
        start: the arm with whose last model of the same seed it begins; empty: with the shared initialisation.
        chosen: the arm whose chosen settings it takes; empty: it has a grid of its own, or none.
    """

    name: str
    method: str
    settings: Mapping[str, Value] = field(default_factory=dict)
    grid: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)
    start: str = ""
    chosen: str = ""

    def choices(self) -> list[dict[str, Value]]:
        """Every combination of the grid; one that sets nothing where there is none."""
        return [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]


@dataclass(frozen=True)
class Study:
    """What a study's file says.

    Attributes:
        watch, also: the accuracy by which settings are chosen, and others whose differences are shown beside its own.
        last: of how many evaluations, of the last rounds, the end of a run is the mean.
        tuning: the seeds at which settings are chosen.
        each: whether each of `rounds` has a choice of its own.
    """

    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    title: str = ""
    clients: int = 0
    baseline: str = ""
    watch: str = WATCHED[0]
    also: tuple[str, ...] = ()
    rounds: tuple[int, ...] = ()
    last: int = 1
    settings: Mapping[str, Value] = field(default_factory=dict)
    tuning: tuple[int, ...] = ()
    each: bool = False

    @property
    def measures(self) -> tuple[str, ...]:
        """The accuracies that the table has."""
        return tuple(dict.fromkeys((*WATCHED, self.watch, *self.also)))

    def arm(self, name: str) -> Arm:
        """The arm of a name."""
        return next(arm for arm in self.arms if arm.name == name)

    def tuned(self, arm: Arm) -> Arm:
        """The arm by whose runs an arm's settings are chosen."""
        return self.arm(arm.chosen) if arm.chosen else arm

    def job(self, arm: Arm, seed: int, chosen: Mapping[str, Value], base: Path | None = None) -> Job:
        """One run of an arm; `base` is the folder of the run that it starts from."""
        own = {**self.settings, **arm.settings, **chosen}
        after = _after(own)
        if base is None:  # it is only looked at
            own = {key: value for key, value in own.items() if key not in after}
        elif after:
            own |= {key: str(own[key]).replace(FIRST, str(base.absolute())) for key in after}
        else:
            own["model.weights"] = str(base.absolute() / MODEL)
        return Job(arm.method, seed, dict(chosen), own, arm.name)


def _after(settings: Mapping[str, Value]) -> list[str]:
    """Those settings that name the folder of the run before."""
    return [key for key, value in settings.items() if isinstance(value, str) and FIRST in value]


def read_study(path: Path, overrides: Mapping[str, Value] | None = None) -> Study:
    """A study's file, checked; `overrides` are settings of every run that win over the file's, but not over an arm's own.

    Raises:
        SettingError: it cannot be read, holds an unknown key or a wrong type, or its arms, seeds or settings do not go together.
    """
    table, where = table_of(path, "study", KINDS), str(path)
    if not table.get("arms"):
        raise SettingError(f"{where} has no arms; add [[arms]] with name = '...' and method = '...'")
    tuning = table.get("tuning", {})
    check_kinds(tuning, TUNING, where, "[tuning]")
    seeds = values_of(path, "seeds", table.get("seeds", [1, 2, 3, 4, 5]), (int,))
    tuned = values_of(path, "tuning.seeds", tuning.get("seeds", [101]), (int,))
    rounds = values_of(path, "rounds", table["rounds"], (int,)) if "rounds" in table else ()
    settings = {**flat(table.get("settings", {}), where), **(overrides or {})}
    common = grid_of(path, tuning.get("grid", {}))
    arms = tuple(arm for entry in table["arms"] for arm in _arms(path, entry, settings, common))
    facts = {"title": path.stem, "clients": 0, "watch": WATCHED[0], "last": 1, "baseline": arms[0].name}
    told = {key: table.get(key, usual) for key, usual in facts.items()}
    also = values_of(path, "also", table["also"], (str,)) if "also" in table else ()
    each = tuning.get("each-round", False)
    study = Study(arms, seeds, also=also, rounds=rounds, settings=settings, tuning=tuned, each=each, **told)
    check_study(study, where)
    for key in overrides or {}:
        if all(key in {**arm.settings, **study.tuned(arm).grid} for arm in arms):
            raise SettingError(f"-c {key}=.. has no effect, as every arm of {where} sets {key} itself; leave it out")
    return study


def _arms(path: Path, entry: Any, settings: Mapping[str, Value], common: Mapping[str, tuple[Value, ...]]) -> list[Arm]:
    """The arms of one entry, one for each combination of `vary`, each with the values that it is chosen from."""
    if not isinstance(entry, dict):
        raise SettingError(f"{path}: arms holds {entry!r}; write each arm as [[arms]] with name and method")
    check_kinds(entry, ARM, str(path), "an arm")
    if not entry.get("method"):
        raise SettingError(f"{path}: the arm {entry.get('name', '')!r} names no method; add method = '...'")
    try:
        method = METHODS.canonical(entry["method"])
    except SettingError as error:
        raise SettingError(f"{path}: {error}") from error
    own = flat(entry.get("settings", {}), str(path))
    bare = Arm(entry.get("name") or method, method, own, start=entry.get("start", ""), chosen=entry.get("chosen", ""))
    vary = grid_of(path, entry.get("vary", {}))
    found = []
    for values in itertools.product(*vary.values()):
        varied = dict(zip(vary, values, strict=True))
        name = ", ".join([bare.name, *(f"{key.rpartition('.')[2]} {_plain(value)}" for key, value in varied.items())])
        held = {**own, **varied}
        usual = {k: v for k, v in common.items() if k not in held and concerns(k, method, {**settings, **held})}
        grid = grid_of(path, entry["grid"]) if "grid" in entry else {} if bare.chosen else usual
        found.append(replace(bare, name=name, settings=held, grid=grid))
    return found


def _plain(value: Value) -> str:
    return value if isinstance(value, str) else literal(value)


def check_study(study: Study, where: str) -> None:
    """See that arms, seeds and settings go together.

    Raises:
        SettingError: they do not; `where` names the file.
    """
    names = [arm.name for arm in study.arms]
    _check_names(names, where)
    for key, what in (("watch", study.watch), *(("also", what) for what in study.also)):
        if not is_followed(what, study.clients):
            known = ", ".join([*WATCHED, f"client:0 to client:{study.clients - 1 if study.clients else 'N'}"])
            raise SettingError(f"{where}: {key} = {what!r} is unknown; choose one of {known}")
    if study.watch in study.also:
        raise SettingError(f"{where}: also holds {study.watch!r}, which is watched; leave it out there")
    if study.baseline not in names:
        raise SettingError(
            f"{where}: the baseline {study.baseline!r} is no arm{near(study.baseline, names)}; name one of its arms"
        )
    if study.last < 1:
        raise SettingError(f"{where}: last = {study.last} is out of range; it must be at least 1")
    if study.clients < 0:
        raise SettingError(f"{where}: clients = {study.clients} is out of range; it must be at least 0")
    if both := sorted({*study.seeds} & {*study.tuning}) if any(arm.grid for arm in study.arms) else []:
        raise SettingError(f"{where}: seed {both[0]} is for tuning and for the table; settings are chosen at seeds of their own")
    if study.each and not study.rounds:
        raise SettingError(f"{where}: each-round = true, and no rounds to choose for; add rounds = [...], or leave it out")
    for i, arm in enumerate(study.arms):
        if arm.start and arm.start not in names[:i]:
            raise SettingError(f"{where}: {arm.name!r} starts from {arm.start!r}, which is no arm before it; put that arm first")
        if arm.chosen and arm.grid:
            raise SettingError(f"{where}: {arm.name!r} has chosen and grid; leave one of them out")
        if arm.chosen and not any(arm.chosen == other.name and other.grid for other in study.arms[:i]):
            raise SettingError(
                f"{where}: {arm.name!r} takes what is chosen for {arm.chosen!r}, which is no arm with a grid before it; name one"
            )
        _check_arm(study, arm, where)
    _check_folders(study, where)
    most = max(
        parse(study.job(arm, study.seeds[0], study.tuned(arm).choices()[0]).flat).run.num_server_rounds for arm in study.arms
    )
    if beyond := [number for number in study.rounds if number > most]:
        raise SettingError(f"{where}: rounds holds {beyond[0]}, and no arm has more than {most} rounds; leave it out")


def _check_names(names: Sequence[str], where: str) -> None:
    seen: dict[str, str] = {}
    for name in names:
        if not named(name):
            raise SettingError(f"{where}: an arm's name {name!r} has no letters; its runs' folders are called by it")
        if named(name) in seen:
            other = seen[named(name)]
            raise SettingError(f"{where}: the arms {other!r} and {name!r} would share a folder; give one another name")
        seen[named(name)] = name


def _check_folders(study: Study, where: str) -> None:
    """See that no two arms have a run's folder in common, as `a` with a value in its grid and `a, value` by name."""
    seen: dict[str, str] = {}
    for arm in study.arms:
        for chosen in study.tuned(arm).choices():
            folder = study.job(arm, study.seeds[0], chosen).name
            if (other := seen.setdefault(folder, arm.name)) != arm.name:
                raise SettingError(f"{where}: runs of {other!r} and {arm.name!r} would share a folder; give one another name")


def _check_arm(study: Study, arm: Arm, where: str) -> None:
    for key in (*study.settings, *arm.settings, *arm.grid):
        if key in ELSEWHERE:
            raise SettingError(f"{where}: {key} cannot stand in a study's file: {ELSEWHERE[key]}")
    if (used := _after({**study.settings, **arm.settings})) and not arm.start:
        raise SettingError(f"{where}: {arm.name!r} has {FIRST} in {used[0]}, and starts from no arm; add start = '...'")
    if arm.start and "model.weights" in {**study.settings, **arm.settings, **arm.grid}:
        raise SettingError(f"{where}: {arm.name!r} has start and model.weights; leave one of them out")
    for chosen in study.tuned(arm).choices():
        job = study.job(arm, study.seeds[0], chosen)
        try:
            config = parse(job.flat)
        except SettingError as error:
            raise SettingError(f"{where}: {arm.name}: {error}") from error
        if arm.grid and not config.of(Data).validation_fraction:
            raise SettingError(
                f"{where}: the settings of {arm.name!r} are chosen by examples that clients hold back, and there are none; "
                "set data.validation-fraction, e.g. 0.2"
            )

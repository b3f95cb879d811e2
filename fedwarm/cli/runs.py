"""What lies on this machine, as tables: the runs below a folder, one run in short, and what clients keep."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedwarm.catalogue import all_groups
from fedwarm.core.terminal import put, show
from fedwarm.core.text import visible
from fedwarm.data.classes import shown
from fedwarm.record.reading import Round, Run, read_run
from fedwarm.settings.fields import SettingError, Value, keys, near
from fedwarm.settings.text import literal

HEADS = ("run", "method", "seed", "engine", "rounds", "state", "accuracy", "personal", "bytes up", "written")
MOST_FAILURES = 20
MB = 1e6
AGES = ((86400.0, "day"), (3600.0, "hour"), (60.0, "minute"))


def run_folders(folder: Path) -> Iterator[Path]:
    """Every run folder at or below `folder`, by name; what lies inside a run is not searched."""
    for place, below, files in os.walk(folder):
        if "results.json" in files:
            below.clear()
            yield Path(place)
        below.sort()


def list_runs(folder: Path) -> None:
    """Print one row a run, the newest last.

    Raises:
        SettingError: there is no such folder.
    """
    if not folder.is_dir():
        raise SettingError(f"{folder} is no folder; give the one that holds the runs, e.g. fedwarm list runs")
    found = sorted(run_folders(folder), key=lambda place: (_written(place), place))
    if not found:
        put(f"no runs below {folder}")
        return
    show(HEADS, [[_name(place, folder), *_row(place), _when(place)] for place in found])


def _name(place: Path, folder: Path) -> str:
    return "." if place == folder else place.relative_to(folder).as_posix()


def _when(place: Path) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(_written(place)))


def _row(place: Path) -> list[str]:
    try:
        run = read_run(place, ledger=False)
    except SettingError:
        return ["–", "–", "–", "–", "unreadable", "–", "–", "–"]
    rounds = _rounds(run)
    measures = [_share(run.accuracy), _share(run.personal_mean), size(run.up)]
    return [run.method, str(run.seed), run.engine, rounds, "complete" if run.complete else "unfinished", *measures]


def _rounds(run: Run) -> str:
    """The last round of those asked for; a method that is done in one has only round 0."""
    last = max((r.number for r in run.rounds), default=0)
    return f"{last} of {run.settings.get('num-server-rounds', '?')}" if last else str(len(run.rounds))


def _written(place: Path) -> float:
    return (place / "results.json").stat().st_mtime


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def size(count: float) -> str:
    """Bytes for people, as MB from 10 kB on."""
    return f"{count / MB:,.2f} MB" if count >= 1e4 else f"{count:,.0f} B"


# One run


def show_run(folder: Path) -> None:
    """Print a run's settings that are not the default, its rounds, totals, failures and privacy.

    Raises:
        SettingError: it is no run folder.
    """
    run = read_run(folder, ledger=False)
    state = "complete" if run.complete else "unfinished"
    put(f"{run.title}, seed {run.seed}, engine {run.engine}, {run.clients} clients, commit {run.commit or 'unknown'}, {state}")
    for client, names in enumerate(run.held or ()):
        put(f"{run.called(client)}: its own data, {'classes not told' if names is None else shown(names)}")
    _show_settings(run)
    _show_rounds(run)
    print()
    show(("total", ""), totals(run))
    if run.failures:
        put(f"\n{len(run.failures)} replies were left out:")
        for failure in run.failures[:MOST_FAILURES]:
            put(f"  {visible(failure)}")
        if len(run.failures) > MOST_FAILURES:
            put(f"  and {len(run.failures) - MOST_FAILURES} more, in {run.folder / 'results.json'}")
    for note in run.notes:
        put(f"\nnote: {visible(note)}")


def changed(run: Run) -> dict[str, tuple[Value, Value | None]]:
    """Settings that are not at their default, with the default (None: unknown to this version)."""
    defaults: dict[str, Value] = {key: f.default for key, _, f in keys(all_groups())}  # type: ignore[misc]
    return {key: (value, defaults.get(key)) for key, value in run.settings.items() if value != defaults.get(key)}


def _show_settings(run: Run) -> None:
    print()
    found = changed(run)
    if not found:
        print("every setting is at its default")
        return
    rows = [(key, literal(value), "–" if default is None else literal(default)) for key, (value, default) in found.items()]
    show(("setting", "value", "default"), rows)


def _show_rounds(run: Run) -> None:
    print()
    if not run.rounds:
        print("no round was finished")
        return
    heads = ("round", "accuracy", "worst tenth", "personal", "worst tenth", "train loss", "bytes up", "bytes down", "seconds")
    show(heads, map(_round, run.rounds))


def _round(r: Round) -> list[str]:
    accuracies = [r.accuracy, r.worst_tenth, r.personal_mean, r.personal_worst_tenth]
    loss = "–" if r.train_loss is None else f"{r.train_loss:.4g}"
    cost = [size(sum(r.up)), size(sum(r.down)), f"{r.seconds:.1f}"]
    return [str(r.number), *map(_share, accuracies), loss, *cost]


def totals(run: Run) -> list[tuple[str, str]]:
    """What the run reached and cost in the end, in words; what it has no value of is left out."""
    shares = [
        ("global accuracy", run.accuracy),
        ("global, worst tenth", run.worst_tenth),
        ("personal, mean", run.personal_mean),
        ("personal, worst tenth", run.personal_worst_tenth),
        ("personal, worst", run.personal_worst),
    ]
    found = [(name, _share(value)) for name, value in shares if value is not None]
    if run.best is not None:
        found.append((f"best {run.best.text}", f"{_share(run.best.value)} in round {run.best.round}"))
    found += [("bytes up", size(run.up)), ("bytes down", size(run.down)), ("seconds", f"{run.seconds:.1f}")]
    return found + [
        (f"privacy, {key}", f"{value:.4g}" if isinstance(value, float) else str(value))
        for key, value in (run.privacy or {}).items()
    ]


# What clients keep


@dataclass(frozen=True)
class State:
    """What the clients of one run keep on this machine."""

    key: str
    partitions: int
    files: int
    bytes: int
    age_seconds: float


def states(root: Path) -> list[State]:
    """The states below a root folder, the one that was written to last at the end; other folders are not counted among them."""
    found = []
    for place in sorted(root.iterdir()) if root.is_dir() else []:
        files = _files(place)
        if files is None:
            continue
        kept = [path for path in files if path.suffix == ".safetensors"]
        stats = [path.stat() for path in files]
        newest = max((stat.st_mtime for stat in stats), default=place.stat().st_mtime)
        total = sum(stat.st_size for stat in stats)
        found.append(State(place.name, len({p.parent for p in kept}), len(kept), total, max(0.0, time.time() - newest)))
    return sorted(found, key=lambda state: -state.age_seconds)


def _files(place: Path) -> list[Path] | None:
    """The files of one run's states; None where the folder holds anything else, which is none of ours to remove."""
    from fedwarm.core.store import KEY

    if place.is_symlink() or not place.is_dir() or not KEY.fullmatch(place.name):
        return None
    inside = [path for path in place.rglob("*") if not path.is_dir() or path.is_symlink()]
    ours = (OURS.fullmatch(path.relative_to(place).as_posix()) for path in inside)
    return inside if all(ours) else None


OURS = re.compile(r"speed\.(json|lock)|(\d+|pool)/(\..+|\d+\.lock|.+\.\d+\.safetensors|hollowed-[^/]*/.+)")
"""A client's states, a shelf of drawn images, tensors of hollowed tuning that were kept or left behind."""


def list_states(root: Path) -> None:
    """Print one row for each run whose clients keep something below `root`."""
    found = states(root)
    if not found:
        put(f"clients keep nothing below {root}")
        return
    rows = [(s.key, str(s.partitions), str(s.files), size(s.bytes), f"{age(s.age_seconds)} ago") for s in found]
    put(f"below {root}:")
    show(("run key", "partitions", "files", "size", "last written"), rows)
    put(f"{size(sum(state.bytes for state in found))} in all; `fedwarm state --remove KEY` removes what a run's clients keep")


def age(seconds: float) -> str:
    """Seconds as the largest whole unit: `3 days`, `1 hour`, `0 seconds`."""
    length, unit = next(((length, unit) for length, unit in AGES if seconds >= length), (1.0, "second"))
    count = int(seconds // length)
    return f"{count} {unit}{'' if count == 1 else 's'}"


def remove_state(root: Path, key: str) -> None:
    """Remove all that the clients of one run keep below `root`.

    Raises:
        SettingError: no run of exactly that key keeps anything there.
    """
    found = {state.key: state for state in states(root)}
    if key not in found:
        raise SettingError(f"no run {key!r} keeps anything below {root}{near(key, list(found))}; give the whole key")
    shutil.rmtree(root / key)
    count = found[key].files
    put(f"removed {count} file{'' if count == 1 else 's'}, {size(found[key].bytes)}, of run {key}")

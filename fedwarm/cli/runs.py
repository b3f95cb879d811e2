"""Runs as tables: those below a folder, and one of them in short."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from fedwarm.core.forms import byte_text, percent
from fedwarm.core.terminal import put, show
from fedwarm.core.text import visible
from fedwarm.data.classes import shown
from fedwarm.record.reading import Json, Round, Run, read_run
from fedwarm.settings.fields import SettingError, Value, defaults
from fedwarm.settings.text import literal

HEADS = ("run", "method", "seed", "engine", "rounds", "state", "accuracy", "personal", "main metric", "bytes up", "written")
MAIN = HEADS.index("main metric")
MOST_FAILURES = 20


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
        raise SettingError(f"{folder} is not a folder; give the one that holds the runs, e.g. fedwarm list runs")
    found = sorted(run_folders(folder), key=lambda place: (_written(place), place))
    if not found:
        put(f"no runs below {folder}")
        return
    rows: list[list[str]] = [[_name(place, folder), *_row(place), _when(place)] for place in found]
    if all(row[MAIN] == "–" for row in rows):
        show([*HEADS[:MAIN], *HEADS[MAIN + 1 :]], [[*row[:MAIN], *row[MAIN + 1 :]] for row in rows])
    else:
        show(HEADS, rows)


def _name(place: Path, folder: Path) -> str:
    return "." if place == folder else place.relative_to(folder).as_posix()


def _when(place: Path) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(_written(place)))


def _row(place: Path) -> list[str]:
    try:
        run = read_run(place, ledger=False)
    except SettingError:
        return ["–", "–", "–", "–", "unreadable", "–", "–", "–", "–"]
    rounds = _rounds(run)
    measures = [percent(run.accuracy), percent(run.personal_mean), _main(run), byte_text(run.up)]
    return [run.method, str(run.seed), run.engine, rounds, "complete" if run.complete else "unfinished", *measures]


def _main(run: Run) -> str:
    """The last value of the metric in accuracy's place, of the global model or of the clients' own."""
    if run.main is None or not run.rounds:
        return "–"
    name, words = run.main
    value = run.rounds[-1].metric(name)
    return f"{words['title']} {_written_as(words, run.rounds[-1].own_metric(name) if value is None else value)}"


def _written_as(words: Json, value: float | None) -> str:
    return "–" if value is None else percent(value) if words["share"] else f"{value:.4g}"


def _rounds(run: Run) -> str:
    """The last round of those asked for; a method that is done in one has only round 0."""
    last = max((r.number for r in run.rounds), default=0)
    return f"{last} of {run.settings.get('num-server-rounds', '?')}" if last or not run.complete else str(len(run.rounds))


def _written(place: Path) -> float:
    return (place / "results.json").stat().st_mtime


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
    from fedwarm.catalogue import all_groups  # which loads all components

    usual = defaults(all_groups())
    return {key: (value, usual.get(key)) for key, value in run.settings.items() if value != usual.get(key)}


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
    reached: tuple[str, ...] = ("accuracy", "worst tenth", "personal", "worst tenth")
    if run.main is not None:
        reached = (run.main[1]["title"], "personal")
    show(("round", *reached, "train loss", "bytes up", "bytes down", "seconds"), [_round(run, r) for r in run.rounds])


def _round(run: Run, r: Round) -> list[str]:
    reached = [percent(value) for value in (r.accuracy, r.worst_tenth, r.personal_mean, r.personal_worst_tenth)]
    if run.main is not None:
        name, words = run.main
        reached = [_written_as(words, value) for value in (r.metric(name), r.own_metric(name))]
    loss = "–" if r.train_loss is None else f"{r.train_loss:.4g}"
    cost = [byte_text(sum(r.up)), byte_text(sum(r.down)), f"{r.seconds:.1f}"]
    return [str(r.number), *reached, loss, *cost]


def totals(run: Run) -> list[tuple[str, str]]:
    """What the run reached and cost in the end, in words; what it has no value of is left out."""
    shares = [
        ("global accuracy", run.accuracy),
        ("global, worst tenth", run.worst_tenth),
        ("personal, mean", run.personal_mean),
        ("personal, worst tenth", run.personal_worst_tenth),
        ("personal, worst", run.personal_worst),
    ]
    found = [(name, percent(value)) for name, value in shares if value is not None]
    for last in run.rounds[-1:]:
        for name, words in (run.evaluation.get("metrics") or {}).items():
            of = (("", last.metric(name)), ("personal, mean ", last.own_metric(name)))
            found += [(f"{whose}{words['title']}", _written_as(words, value)) for whose, value in of if value is not None]
    if run.best is not None:
        best = percent(run.best.value) if run.best.form == "percent" else f"{run.best.value:.4g}"
        found.append((f"best {run.best.text}", f"{best} in round {run.best.round}{run.best.place}"))
    found += [("bytes up", byte_text(run.up)), ("bytes down", byte_text(run.down)), ("seconds", f"{run.seconds:.1f}")]
    return found + [
        (f"privacy, {key}", f"{value:.4g}" if isinstance(value, float) else str(value)) for key, value in run.privacy_rows
    ]

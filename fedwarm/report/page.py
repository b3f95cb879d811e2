"""One page about one or several runs: what they reached, what it cost, what the generators draw, and how all was set.

`make_report` reads run folders as they lie (results, ledger, pictures, weights) and starts nothing. The one thing it may load is
the data set, for real pictures beside the generated ones; where that cannot be had the page says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
from markupsafe import Markup

from fedwarm.catalogue import all_groups
from fedwarm.core.terminal import say
from fedwarm.diffusion.adapters import ADAPTERS, adapter_file
from fedwarm.record.ledger import measuring
from fedwarm.record.reading import BYTE_KEYS, Json, Run, mean, read_run
from fedwarm.report import plots
from fedwarm.report.compare import compare
from fedwarm.report.render import filled, piece, write_page
from fedwarm.report.sections import Figures, Section, sections
from fedwarm.settings.fields import SettingError, allowed, keys

MOST_ROWS, MOST_BARS = 100, 40
PLACES = ("rounds", "clients", "data", "stages", "settings", "record")
PAGE = "report.html"  # of one run, in its folder


def make_report(runs: Sequence[Path], out: Path | None = None) -> Path:
    """Writes one self-contained HTML page about the runs and returns its path.

    Args:
        runs: run folders; one gives its page, several are compared first.
        out: the page's path; None: `report.html` in the only run's folder, or `fedwarm-report.html` in the working directory.

    Raises:
        SettingError: no run given, a folder that is no run of schema 1, or a page that cannot be written.
    """
    folders = list(dict.fromkeys(Path(run).resolve() for run in runs))
    if not folders:
        raise SettingError("no run folder given; name at least one, e.g. runs/warmfed")
    read = [read_run(folder) for folder in folders]
    path = Path(out) if out is not None else folders[0] / PAGE if len(read) == 1 else Path("fedwarm-report.html")
    if len(read) == 1:
        page = filled("run.html.j2", s=section(read[0]))
    else:
        shown = [section(run, f"run-{i}-") for i, run in enumerate(read, 1)]
        page = filled("comparison.html.j2", sections=shown, comparison=compare(read))
    write_page(path.resolve(), page)
    return path.resolve()


def section(run: Run, prefix: str = "") -> Json:
    """What the page shows of one run, ready for the template; all ids begin with `prefix`."""
    parts = [part for each in sections() if (part := part_of(each, run, prefix)) is not None]
    stages = stage_rows(run)
    return {
        "run": run,
        "id": prefix,
        "peak": max((n for row in run.counts or [] for n in row), default=0),
        "figures": figures(run, [figure for part in parts for figure in part.figures]),
        "clients": client_rows(run),
        "most_rows": MOST_ROWS,
        "stages": stages,
        "parts": [part for part in parts if part.html],
        "places": [*((part.anchor, part.title) for part in parts if part.html), *_places(run, bool(stages))],
        "settings": setting_rows(run.settings),
        "files": file_sizes(run.folder),
    }


def _places(run: Run, staged: bool) -> list[tuple[str, str]]:
    """Ids and names of the places that every page has, but for those with nothing to show."""
    shown = {"clients": run.clients > 0, "stages": staged, "settings": bool(run.settings)}
    return [(name, name.capitalize()) for name in PLACES if shown.get(name, True)]


@dataclass(frozen=True)
class Part:
    """What a section of the report shows of one run: charts, and HTML below its heading (empty: it has no place of its own)."""

    title: str
    anchor: str
    figures: Figures
    html: Markup


def part_of(section: Section, run: Run, prefix: str) -> Part | None:
    """A section filled in; None where it fails, which is said: a part of somebody else's must not cost a run its page."""
    try:
        shown = section.shown(run)
        html = piece(section.template, run=run, shown=shown, id=prefix) if shown else Markup()
        return Part(section.title, section.anchor, section.figures(run), html)
    except Exception as error:
        say(f"fedwarm: section {section.title!r} is left out of the report: {type(error).__name__}: {error}")
        return None


def figures(run: Run, more: Figures) -> Figures:
    """Charts of one run: curves over rounds and bytes, the last accuracies of each client, `more` of the sections, durations."""
    found = over_time(run) if sum(r.accuracy is not None or r.personal_mean is not None for r in run.rounds) > 1 else []
    pairs = [("global model", run.last("clients")), ("personal model", run.last("personal"))]
    if (not found or run.clients > 1) and run.clients <= MOST_BARS and any(v is not None for _, row in pairs for v in row):
        caption = "Last accuracy on each client's own test images"
        found.append((plots.bars(pairs, f"{caption}: {run.title}"), f"{caption}, in percent."))
    found += more
    stages = {name: sum(seconds for other, seconds in run.stages if other == name) for name, _ in run.stages}
    if len(stages) > 1:
        found.append((plots.durations(list(stages.items()), f"Time by stage: {run.title}"), "Time by stage."))
    return found


def over_time(run: Run) -> Figures:
    """Curves over rounds and over bytes sent, with their captions; all have the same accuracy axis."""
    x = [float(r.number) for r in run.rounds]
    span = plots.accuracy_range([v for r in run.rounds for v in (r.accuracy, *r.clients, *r.personal) if v is not None])
    lines = [
        ("Global model", plots.Line("global model", x, [r.accuracy for r in run.rounds], 0, members=_members(run, "clients"))),
        (
            "Personal models",
            plots.Line("personal, mean", x, [r.personal_mean for r in run.rounds], 1, members=_members(run, "personal")),
        ),
    ]
    lines = [(text, line) for text, line in lines if any(v is not None for v in line.y)]
    thin = "thin: each client" if run.clients <= plots.MOST_THIN_LINES else "shaded: the middle 80 % of the clients"
    found = [
        (plots.curves([line], f"{text} by round: {run.title}", span=span), f"{text} by round; {thin}.") for text, line in lines
    ]
    sent = np.cumsum([sum(r.up) for r in run.rounds]).tolist()
    if sent[-1] > 0:
        bare = [dataclasses.replace(line, x=sent, members=()) for _, line in lines]
        found.append(
            (plots.curves(bare, f"Accuracy by bytes up: {run.title}", of_bytes=True, span=span), "Accuracy by bytes up.")
        )
    return found


def _members(run: Run, kind: str) -> list[list[float | None]]:
    """Accuracies by client, then round; None where a round did not measure them."""
    rows: list[list[float | None]] = [getattr(r, kind) for r in run.rounds]
    return [list(each) for each in zip_longest(*rows)]


def client_rows(run: Run) -> list[Json]:
    """One row a client: examples, final accuracies, bytes by the ledger without evaluation, size of its adapter."""
    shared, personal, rows = run.last("clients"), run.last("personal"), []
    for k in range(min(run.clients, MOST_ROWS)):
        mine = [entry for entry in run.ledger if entry.get("client") == k and not measuring(str(entry.get("stage")))]
        adapter = adapter_file(run.folder, k)
        row: Json = {"client": run.called(k), "shared": shared[k], "personal": personal[k]}
        row["examples"] = sum(run.counts[k]) if run.counts else None
        row["bytes"] = [int(sum(entry[key] for entry in mine)) if run.ledger else None for key in BYTE_KEYS]
        row["adapter"] = adapter.stat().st_size if adapter.is_file() else None
        row["seconds"] = sum(entry["seconds"] for entry in mine) if run.ledger else None
        rows.append(row)
    return rows


def stage_rows(run: Run) -> list[Json]:
    """One row a stage, in order of first appearance: its duration, and the ledger's replies, bytes and clients' seconds."""
    names = list(dict.fromkeys([name for name, _ in run.stages] + [str(entry.get("stage")) for entry in run.ledger]))
    rows = []
    for name in names:
        entries = [entry for entry in run.ledger if str(entry.get("stage")) == name]
        durations = [seconds for stage, seconds in run.stages if stage == name]
        row: Json = {"name": name, "seconds": sum(durations) if durations else None, "replies": len(entries)}
        row["bytes"] = [int(sum(entry[key] for entry in entries)) for key in BYTE_KEYS]
        row["failures"] = sum(bool(entry.get("failure")) for entry in entries)
        row["mean_seconds"] = mean(entry["seconds"] for entry in entries)
        row["longest_seconds"] = max((entry["seconds"] for entry in entries), default=None)
        rows.append(row)
    return rows


def setting_rows(settings: Json) -> list[Json]:
    """Every setting of a run with its meaning, its default, and whether it was changed; unknown ones count as changed."""
    known = {key: f for key, _, f in keys(all_groups())}
    rows = []
    for key, value in settings.items():
        f = known.get(key)
        row: Json = {"key": key, "value": value, "default": f.default if f else None, "changed": f is None or value != f.default}
        span = allowed(f) if f else "any"
        row["text"] = (f.metadata["text"] if f else "not a setting of this version") + (f" ({span})" if span != "any" else "")
        rows.append(row)
    return rows


def file_sizes(folder: Path) -> list[tuple[str, int]]:
    """The weights, pictures and records of a run folder with their sizes in bytes; the adapters together."""
    adapters = sorted(folder.glob(f"{ADAPTERS}/*/*.safetensors"))
    named = [(f"adapters ({len(adapters)} files)", sum(path.stat().st_size for path in adapters))] if adapters else []
    of_sections = (name for section in sections() for name in section.files)
    rest = ("model.safetensors", *of_sections, "results.json", "ledger.jsonl")
    return named + [(name, (folder / name).stat().st_size) for name in rest if (folder / name).is_file()]

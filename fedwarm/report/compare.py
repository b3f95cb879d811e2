"""Several runs side by side: grouped where they differ in the seed only, labelled by method and by the settings that differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedwarm.catalogue import Owned, all_groups, flagged, owners
from fedwarm.record.reading import Json, Run
from fedwarm.relevance import matters
from fedwarm.report.measured import costs, known, reached, spread
from fedwarm.report.overlaid import figures
from fedwarm.report.sections import sections
from fedwarm.settings.fields import defaults, keys
from fedwarm.settings.kinds import METHODS

APART = {"seed", "method"}  # what tells the runs of a group apart, and what its label names anyway


def compare(runs: Sequence[Run]) -> Json:
    """What the page shows of several runs together, ready for the template."""
    groups = grouped(runs)
    rows = [
        {
            "name": members[0].title,
            "details": label.removeprefix(members[0].title).lstrip(", "),
            "style": i,
            "runs": members,
        }
        for i, (label, members) in enumerate(groups.items())
    ]
    watched = sorted({f"{run.best.text} of any round{run.best.place}" for run in runs if run.best})
    tables = [("What was reached", known(reached(runs), runs)), ("What it cost", known(costs(), runs))]
    parts = [{"title": part.title, "text": part.text, "tables": found} for part in sections() if (found := part.tables(runs))]
    charts = figures(groups) + [figure for part in sections() for figure in part.compared(groups)]
    return {"groups": rows, "tables": tables, "parts": parts, "spread": spread, "watched": watched, "figures": charts}


def concerns(key: str, method: str, settings: Mapping[str, Any] | None = None) -> bool:
    """Whether a setting can change what a method does: it belongs to no other method, or to one whose settings all share.

    Args:
        settings: of the run, or lists of them by key: they may switch on a part that is a method of its own elsewhere.
    """
    group = next((group for known, group, _ in keys(all_groups()) if known == key), None)
    found = owners().get(group, []) if group is not None else []
    if not any(owner.kind is METHODS for owner in found):
        return True
    return any(owner.name == method if owner.kind is METHODS else _holds(settings, owner) for owner in found)


def _holds(settings: Mapping[str, Any] | None, owner: Owned) -> bool:
    given = (settings or {}).get(owner.kind.key)
    return owner.name in given if isinstance(given, (list, tuple)) else owner.name == given


def relevant(run: Run) -> Json:
    """The settings that can change a run's numbers: no places, no seed, and nothing of other methods or of what is not used."""
    left_out = flagged("neutral") | APART
    return {key: value for key, value in run.settings.items() if key not in left_out and matters(key, run.settings, run.method)}


def grouped(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs that differ in nothing but the seed, by a label; in the order given.

    The label names the method and of the settings that differ those that tell its runs apart or are not the default.
    """
    settings = [relevant(run) for run in runs]
    differing = _differing(settings)
    pairs = list(zip(runs, settings, strict=True))
    of_method = {run.method: _differing([found for other, found in pairs if other.method == run.method]) for run in runs}
    usual = defaults(all_groups())
    engines, sizes = len({run.engine for run in runs}) > 1, len({run.clients for run in runs}) > 1
    groups: dict[str, list[Run]] = {}
    for run, found in pairs:
        named = [k for k in differing if k in found and (k in of_method[run.method] or found[k] != usual.get(k))]
        parts = [run.title] + [f"{key}={_text(found[key])}" for key in named] + [run.engine] * engines
        parts += [f"{run.clients} clients"] * sizes
        groups.setdefault(", ".join(parts), []).append(run)
    return groups


def _differing(settings: Sequence[Json]) -> list[str]:
    known = dict.fromkeys(key for found in settings for key in found)
    return [key for key in known if len({repr(found[key]) for found in settings if key in found}) > 1]


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)

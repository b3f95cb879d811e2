"""`fedwarm components --coverage`: which tasks, inputs and layers each component covers, by what it declares, as a table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fedwarm.cli.components import states
from fedwarm.relevance import Run
from fedwarm.settings import kinds
from fedwarm.settings.registry import Kind, summary

SHOWN: tuple[Kind[Any], ...] = (
    kinds.METHODS, kinds.OBJECTIVES, kinds.CODECS, kinds.PRIVACY, kinds.AUGMENTATIONS, kinds.RULES, kinds.PARTITIONS,
    kinds.MEASURES,
)  # fmt: skip
HEAD = """# What covers what

Made by `fedwarm components --coverage` from what components declare. Whatever does not fit is refused before a run, in one
line. *When used*: a part of every run that covers less once its own settings ask for it. Settings that a method does not go
with are refused, too; `fedwarm settings METHOD` names its own.
"""


def coverage() -> str:
    """The table in Markdown, one part for each kind of component, and one of tasks and their metrics."""
    return "\n".join([HEAD, *(_part(kind) for kind in SHOWN), _tasks()])


def _part(kind: Kind[Any]) -> str:
    rows = [_row(name, kind.load(name), kind) for name in kind.own()]
    return _table(f"## {kind.name[0].upper()}{kind.name[1:]}s", ("name", "tasks", "inputs", "layers", "not with"), rows)


def _row(name: str, found: Any, kind: Kind[Any]) -> tuple[str, ...]:
    tasks, inputs = (_covered(name, found, kind, *words) for words in (("classed", "with classes"), ("pictures", "pictures")))
    refused = ", ".join(f"`{key}`" for key in getattr(found, "refuses", {}))
    return f"`{name}`", tasks, inputs, str(getattr(found, "layers", "")) or "any", refused or "–"


def _covered(name: str, found: Any, kind: Kind[Any], fact: str, what: str) -> str:
    """What a component covers of tasks or inputs, and which part of a method's own defaults covers no more."""
    if states(found, fact):
        return f"{what} when used" if kind.every else what
    parts = Run({}, name).stating(fact) if kind is kinds.METHODS else []
    return f"{what}, by its default {', '.join(f'`{part}`' for part in parts)}" if parts else "any"


def _tasks() -> str:
    from fedwarm.metrics import main_of, metrics_for

    rows: list[tuple[str, ...]] = []
    for name in kinds.TASKS.own():
        task = kinds.TASKS.load(name)
        metrics = ", ".join(f"**{each}**" if each == main_of(task) else each for each in metrics_for(task))
        rows.append((f"`{name}`", str(task.targets), metrics, _first(summary(task))))
    return _table(
        "## Tasks\n\nThe main metric of each, which says what is better, is in bold.",
        ("name", "targets", "metrics", "loss"),
        rows,
    )


def _first(text: str) -> str:
    return text.partition(". ")[0].rstrip(".")


def _table(heading: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    return "\n".join([heading, "", *_lines(columns, rows), ""])


def _lines(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    for cells in (columns, ("---",) * len(columns), *rows):
        yield f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"

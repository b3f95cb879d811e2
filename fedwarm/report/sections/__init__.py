"""Sections of the report: what one part of a run has to itself, on a run's own page and where several runs are compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from fedwarm.core.terminal import say
from fedwarm.record.reading import Run
from fedwarm.settings.fields import SettingError
from fedwarm.settings.kinds import SECTIONS

Figures = list[tuple[str, str]]
"""Charts as SVG (see `fedwarm.report.plots`), each with its caption."""


@dataclass(frozen=True)
class Measure:
    """A column of the comparison; `form` says how its numbers are written: percent, bytes, time or number."""

    heading: str
    form: str
    of: Callable[[Run], float | None]


class Section:
    """A section, which as it stands shows nothing.

    Attributes:
        title: its heading.
        anchor: the id of its heading.
        order: sections stand in ascending order.
        text: the line above its tables where runs are compared, as HTML.
        template: its HTML as a jinja2 template, which gets `run`, `shown` (see below) and `id`, the prefix of all its ids; it may
            import the macros of this folder's neighbour `templates`, such as `macros.html.j2`.
        measures: columns of what runs cost, by name.
        files: files of a run's folder that it is about.
    """

    title: ClassVar[str] = ""
    anchor: ClassVar[str] = ""
    order: ClassVar[int] = 50
    text: ClassVar[str] = ""
    template: ClassVar[str] = ""
    measures: ClassVar[Mapping[str, Measure]] = {}
    files: ClassVar[tuple[str, ...]] = ()

    def shown(self, run: Run) -> Any:
        """What the template shows of a run; nothing (None, or anything empty) where the run has none of it."""
        return None

    def figures(self, run: Run) -> Figures:
        """Charts among those of a run's accuracy and time."""
        return []

    def tables(self, runs: Sequence[Run]) -> list[tuple[str, list[Measure]]]:
        """Captions and columns of tables that compare runs; none where no run has any of it."""
        return []

    def compared(self, groups: Mapping[str, Sequence[Run]]) -> Figures:
        """Charts that compare groups of runs, which differ within a group in the seed alone, by the groups' labels."""
        return []


def sections() -> list[Section]:
    """All sections in their order; a package's that cannot be imported is left out, which is said."""
    found = []
    for name in SECTIONS.names():
        try:
            found.append((name, SECTIONS.load(name)))
        except SettingError as error:
            say(f"fedwarm: left out of the report: {error}")
    return [section for _, section in sorted(found, key=lambda pair: (pair[1].order, pair[0]))]

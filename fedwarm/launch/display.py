"""What a person sees while a run works: what comes next and how long all takes, and a bar per client and piece of work, with
steps and time left; lines without a terminal.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext

import fedwarm.flower.wire  # noqa: F401  # imports Flower, which gives its logger a handler: that must be before `one_style`
from fedwarm.core.logs import one_style
from fedwarm.core.progress import STAGES, Listener, Pace, Tick, listening
from fedwarm.core.terminal import lively, say
from fedwarm.core.text import visible

LINE_INTERVAL_SECONDS = 5.0
LEAST_COLUMNS = 72


@contextmanager
def shown(title: str) -> Iterator[None]:
    """Show the ticks of the block, and what is logged in it: bars on a terminal that has room for them, else lines."""
    bars = lively(sys.stderr, LEAST_COLUMNS)
    with _bars(title) if bars else nullcontext(_lines()) as listener, one_style(), listening(listener, "server"):
        yield


@contextmanager
def silent() -> Iterator[None]:
    """Show nothing of what goes well in the block: neither ticks nor Flower's notes."""
    log = logging.getLogger("flwr")
    log.addFilter(_weighty)
    try:
        with one_style(), listening(lambda _: None, "server"):
            yield
    finally:
        log.removeFilter(_weighty)


def _weighty(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING


@contextmanager
def _bars(title: str) -> Iterator[Listener]:
    from rich.console import Console, RenderableType
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.text import Text

    class Bars(Progress):
        """Bars below a line about the whole run, which takes no room from them."""

        whole = ""

        def get_renderables(self) -> Iterable[RenderableType]:
            return [*([Text(self.whole)] if self.whole else []), *super().get_renderables()]

    columns = (
        TextColumn("{task.fields[who]:<10}", markup=False), TextColumn("{task.description:<16}", markup=False), BarColumn(),
        MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
        TextColumn("{task.fields[text]}", markup=False),
    )  # fmt: skip
    tasks: dict[tuple[str, str], tuple[int, int]] = {}
    with Bars(*columns, console=Console(stderr=True), transient=False) as progress:
        progress.console.print(visible(title), markup=False, emoji=False, highlight=False)

        def show(event: Tick) -> None:
            if event.stage == STAGES:
                progress.whole = visible(f"stage {event.step} of {event.of}: {event.text}")
                return
            key = (event.who, event.stage)
            task, last = tasks.get(key, (-1, 0))
            if task >= 0 and event.step < last:
                progress.remove_task(task)  # type: ignore[arg-type]
                task = -1
            if task < 0:
                task = int(progress.add_task(event.stage, total=event.of, who=visible(event.who), text=""))
            tasks[key] = (task, event.step)
            progress.update(task, completed=event.step, total=event.of, text=visible(event.text))  # type: ignore[arg-type]

        yield show


def _lines() -> Listener:
    """One line to standard error at a stage's last step and every few seconds before."""
    pace = Pace(LINE_INTERVAL_SECONDS)

    def show(event: Tick) -> None:
        line = pace.line(event)
        if line is not None:
            say(line)

    return show

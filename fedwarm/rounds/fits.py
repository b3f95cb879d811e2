"""Components that do not fit the run's task, refused before the run by what they declare."""

from __future__ import annotations

from fedwarm.data.settings import CLASSES, LABELS, NUMBERS, TOKENS
from fedwarm.relevance import Run
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError
from fedwarm.tasks import task_of

WORDS = {CLASSES: "classes", LABELS: "several labels an example", NUMBERS: "numbers", TOKENS: "tokens of texts"}


def refuse_unfit(config: Config) -> None:
    """Refuse a task whose targets are no classes, or whose outputs are no answers, where a chosen component works on these alone.

    Raises:
        SettingError: it does, by what it states (`classed`, `answered`); which component, and what to choose.
    """
    task = task_of(config.run)
    _refuse(config, "classed", "classes", task.targets == CLASSES, f"has {WORDS.get(task.targets, task.targets)}")
    _refuse(config, "answered", "a model's answers", task.answers, "gives none")


def _refuse(config: Config, fact: str, what: str, there: bool, instead: str) -> None:
    if not there and (found := Run.of(config).stating(fact)):
        raise SettingError(
            f"{found[0]} works on {what} alone, and task = {config.run.task!r} {instead}; choose task = 'classification', "
            "or leave that out"
        )

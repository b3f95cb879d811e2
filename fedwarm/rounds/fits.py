"""Components that do not fit the run's task, refused before the run by what they declare."""

from __future__ import annotations

from fedwarm.data.settings import CLASSES, LABELS, NUMBERS, TOKENS
from fedwarm.relevance import Run
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError
from fedwarm.tasks import task_of

WORDS = {CLASSES: "classes", LABELS: "several labels an example", NUMBERS: "numbers", TOKENS: "tokens of texts"}


def refuse_unfit(config: Config) -> None:
    """Refuse a task whose targets are no classes where a chosen component works on classes alone (its `classed`).

    Raises:
        SettingError: it does; which component, and what to choose.
    """
    targets = task_of(config.run).targets
    if targets != CLASSES and (found := Run.of(config).stating("classed")):
        raise SettingError(
            f"{found[0]} works on classes alone, and task = {config.run.task!r} has {WORDS.get(targets, targets)}; choose task = "
            "'classification', or leave that out"
        )

"""What a strategy does where each node brings its own data: it tells the run's classes, keeps them, and says who holds which."""

from __future__ import annotations

from collections.abc import Iterator

from fedwarm.core.payload import Fact
from fedwarm.data.classes import lookalikes
from fedwarm.data.settings import Data
from fedwarm.rounds.fleet import Fleet
from fedwarm.rounds.foundation_words import refuse_strangers
from fedwarm.rounds.home import guarded
from fedwarm.settings.config import Config


def told(config: Config, fleet: Fleet) -> dict[str, Fact]:
    """What every message tells of classes: nothing where nodes know them by the settings, or by the data set that all have."""
    return {"classes": list(fleet.classes)} if config.of(Data).own and not config.of(Data).classes else {}


def kept(config: Config, fleet: Fleet) -> dict[str, list[str]]:
    """What a checkpoint keeps, so that a run that goes on with other nodes has the same classes in the same order."""
    return {"classes": list(fleet.classes)} if config.of(Data).own else {}


def held(config: Config, fleet: Fleet) -> list[list[str] | None] | None:
    """The names of the classes that each node says it holds, None of one that does not tell; None where data are dealt."""
    if not config.of(Data).own:
        return None
    tell = not guarded(config)
    return [[fleet.classes[c] for c in m.present] if m.known and tell else None for m in fleet.members]


def notes(config: Config, fleet: Fleet) -> Iterator[str]:
    """What the record should say of the classes.

    Raises:
        SettingError: they are drawn by a foundation that knows none of them.
    """
    if config.of(Data).own:
        refuse_strangers(config, fleet.classes)
        if text := lookalikes(fleet.classes):
            yield text

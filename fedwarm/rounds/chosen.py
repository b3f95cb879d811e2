"""The parts of a run, by the names that their stages and checkpoints know them by."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

from fedwarm.parts import Part, ServerPart
from fedwarm.settings.config import Config, once
from fedwarm.settings.kinds import AUGMENTATIONS, MEASURES, PRIVACY


@once
def parts_of(config: Config) -> Mapping[str, Part]:
    """The augmentation, the privacy mechanism and all measures."""
    return {
        "augment": AUGMENTATIONS.load(config.run.augment),
        "privacy": PRIVACY.load(config.run.privacy),
        **{f"measure {name}": MEASURES.load(name) for name in MEASURES},
    }


def able(halves: Mapping[str, ServerPart], here: tuple[int, ...]) -> tuple[int, ...]:
    """The clients that can train by what a run's parts know of them; all where none can."""
    return reduce(lambda clients, part: part.able(clients), halves.values(), here) or here

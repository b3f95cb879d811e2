"""The parts of a run, by the names that their stages and checkpoints know them by."""

from __future__ import annotations

from collections.abc import Mapping

from fedwarm.parts import Part
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

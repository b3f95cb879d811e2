"""Augmentations: what clients add to their data before training, as parts with two halves (`fedwarm.parts`).

An augmentation may say three things more: `earlier(config)`, the settings that name files of earlier runs, with their values;
`sources(config)`, which data sets its images come from; and, where it has a foundation draw, `understood(config, folder, classes,
words)`, of which classes that one knows the words.
"""

from __future__ import annotations

from fedwarm.methods import method_of
from fedwarm.settings.config import Config
from fedwarm.settings.kinds import CODECS


def hides(config: Config) -> bool:
    """Whether what leaves a client is accounted for to the last bit, so that nothing else may tell of what it holds."""
    return method_of(config).hides or bool(getattr(CODECS.load(config.run.codec), "hides", False))

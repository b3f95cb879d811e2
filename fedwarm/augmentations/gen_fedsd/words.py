"""Whether a foundation can understand what it is asked for: sentences in words that it was trained on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from fedwarm.augmentations.gen_fedsd.amounts import GenFedSD
from fedwarm.augmentations.gen_fedsd.identity import wording
from fedwarm.core.text import words_of
from fedwarm.diffusion.sentences import phrases, sentences
from fedwarm.diffusion.settings import Diffusion
from fedwarm.settings.config import Config


def understood(config: Config, folder: Path, classes: Sequence[str], words: set[str]) -> list[bool]:
    """Of each class, whether its phrase is a known one; where a user wrote its sentences, whether each has a known one in it.

    Args:
        folder: the foundation's.
        words: what it was trained on, as `core.text.words_of` writes them.
    """
    own = config.of(GenFedSD)
    if own.prompt_mode != "single" and own.prompts_file.endswith(".json"):
        inside = re.compile(r"(?<![\w-])(" + "|".join(map(re.escape, sorted(words))) + r")(?![\w-])")
        told = sentences(wording(config), config.of(Diffusion).foundation, folder, classes)
        return [all(inside.search(words_of(sentence)) for sentence in said) for said in told]
    return [words_of(phrase) in words for phrase in phrases(wording(config), classes)]

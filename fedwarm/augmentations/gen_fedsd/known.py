"""Which classes a foundation was trained on, by the `recipe.json` in its folder, and what a run says that has others drawn.

A text-to-image model that has never seen a word draws noise for it, and nothing about the noise says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from fedwarm.augmentations.gen_fedsd.amounts import GenFedSD
from fedwarm.augmentations.gen_fedsd.checks import augmenting
from fedwarm.diffusion.foundation import locate
from fedwarm.diffusion.sentences import phrases, sentences
from fedwarm.diffusion.settings import Diffusion
from fedwarm.methods.warmfed import WarmFed
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError

SHOWN = 10
REMEDY = "train one on public images of them by `fedwarm foundation train NAME --data ..`"


def known_words(folder: Path) -> tuple[str, ...]:
    """What the classes were called that a foundation was trained on; empty where its folder does not say."""
    try:
        recipe = json.loads((folder / "recipe.json").read_text())
        told = recipe.get("classes") or recipe["data"]["classes"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return ()
    return tuple(str(word) for word in told) if isinstance(told, list) else ()


def strangers(config: Config, classes: Sequence[str]) -> list[str]:
    """The classes that a run has drawn by a foundation whose recipe does not name them.

    Raises:
        SettingError: the foundation or the sentences cannot be used.
    """
    if not _draws(config):
        return []
    folder = Path(locate(config.of(Diffusion).foundation))
    known = known_words(folder)
    if not known:
        return []
    found = _found(config, folder, classes, {_plain(word) for word in known})
    return [name for name, seen in zip(classes, found, strict=True) if not seen]


def refuse_strangers(config: Config, classes: Sequence[str]) -> None:
    """Refuse a foundation that was trained on none of the classes, where nothing teaches it them.

    Raises:
        SettingError: it would draw noise.
    """
    unknown = strangers(config, classes)
    if len(unknown) == len(classes) > 0 and not _learns(config):
        name = config.of(Diffusion).foundation
        known = known_words(Path(locate(name)))
        raise SettingError(
            f"diffusion.foundation = {name!r} was trained on {_listed(known)} and on none of the classes "
            f"{_listed(classes)}: it would draw noise; {REMEDY}, or take a general one"
        )


def remark(config: Config, classes: Sequence[str]) -> str:
    """What a user should know before a run whose foundation was not trained on some classes; empty where there are none."""
    try:
        unknown = strangers(config, classes)
    except SettingError:  # told by whoever has to use it
        return ""
    if not unknown:
        return ""
    drawn = "shows only what the adapters learn of them" if _learns(config) else "is noise"
    return (
        f"diffusion.foundation = {config.of(Diffusion).foundation!r} was not trained on {len(unknown)} of {len(classes)} classes "
        f"({_listed(unknown)}): what it draws of them {drawn}; look at the pictures, or {REMEDY}"
    )


def _draws(config: Config) -> bool:
    if config.run.method == "warmfed":
        return config.of(WarmFed).synthetic_ratio > 0
    return augmenting(config) and config.of(GenFedSD).provider == "foundation"


def _learns(config: Config) -> bool:
    return config.run.method == "warmfed" and config.of(WarmFed).adapt


def _found(config: Config, folder: Path, classes: Sequence[str], words: set[str]) -> list[bool]:
    """Of each class, whether its phrase is a known one; where a user wrote its sentences, whether each has a known one in it."""
    own = config.of(GenFedSD)
    if config.run.method == "warmfed":
        return [_plain(name.replace("_", " ")) in words for name in classes]
    if own.prompt_mode != "single" and own.prompts_file.endswith(".json"):
        inside = re.compile(r"(?<![\w-])(" + "|".join(map(re.escape, sorted(words))) + r")(?![\w-])")
        told = sentences(own, config.of(Diffusion).foundation, folder, classes)
        return [all(inside.search(_plain(sentence)) for sentence in said) for said in told]
    return [_plain(phrase) in words for phrase in phrases(own, classes)]


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", .." if len(names) > SHOWN else "")

"""Which classes a foundation was trained on, by the `recipe.json` in its folder, and what a run says that has others drawn.

A text-to-image model that has never seen a word draws noise for it, and nothing about the noise says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedwarm.core.text import words_of
from fedwarm.diffusion.asking import called, known_words
from fedwarm.diffusion.foundation import locate
from fedwarm.diffusion.settings import Diffusion
from fedwarm.relevance import Run
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError

SHOWN = 10
REMEDY = "train one on public images of them by `fedwarm foundation train NAME --data ..`"


def strangers(config: Config, classes: Sequence[str]) -> list[str]:
    """The classes that a run has drawn by a foundation whose recipe does not name them.

    Raises:
        SettingError: the foundation or the sentences cannot be used.
    """
    run = Run.of(config)
    if not (run.generates or run.draws):
        return []
    folder = Path(locate(config.of(Diffusion).foundation))
    known = known_words(folder)
    if not known:
        return []
    found = _found(config, folder, classes, {words_of(word) for word in known})
    return [name for name, seen in zip(classes, found, strict=True) if not seen]


def refuse_strangers(config: Config, classes: Sequence[str]) -> None:
    """Refuse a foundation that was trained on none of the classes, where nothing teaches it them.

    Raises:
        SettingError: it would draw noise.
    """
    unknown = strangers(config, classes)
    if len(unknown) == len(classes) > 0 and not Run.of(config).attaches:
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
    drawn = "shows only what the adapters learn of them" if Run.of(config).attaches else "is noise"
    return (
        f"diffusion.foundation = {config.of(Diffusion).foundation!r} was not trained on {len(unknown)} of {len(classes)} classes "
        f"({_listed(unknown)}): what it draws of them {drawn}; look at the pictures, or {REMEDY}"
    )


def _found(config: Config, folder: Path, classes: Sequence[str], words: set[str]) -> list[bool]:
    """Of each class, whether its sentences are in known words; by what it is called where no component says how it asks."""
    asking = [found for found in Run.of(config).chosen if hasattr(found, "understood")]
    if asking:
        return [all(each) for each in zip(*(found.understood(config, folder, classes, words) for found in asking), strict=True)]
    return [words_of(name) in words for name in called(config.of(Diffusion).foundation, classes)]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", .." if len(names) > SHOWN else "")

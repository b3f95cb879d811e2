"""What a foundation is asked for, one sentence a class and style, in words that it learned."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from fedwarm.core.text import words_of
from fedwarm.diffusion.foundation import locate
from fedwarm.diffusion.sentences import Wording, phrases, prompts
from fedwarm.settings.fields import SettingError

STYLE = "{style}"  # in a prompt: a client's phrase


def known_words(folder: Path) -> tuple[str, ...]:
    """What the classes were called that a foundation was trained on; empty where its folder does not say."""
    try:
        recipe = json.loads((folder / "recipe.json").read_text())
        told = recipe.get("classes") or recipe["data"]["classes"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return ()
    return tuple(str(word) for word in told) if isinstance(told, list) else ()


def called(foundation: str, classes: Sequence[str]) -> list[str]:
    """The name of each class in a sentence: its own, if the foundation was trained on that, else its gloss, if it has one.

    `7` stays `7` for the embedded foundation and is `seven` for others, `T-shirt/top` is `t-shirt` (`sentences.GLOSSES`).
    """
    known: set[str] = set()
    with suppress(SettingError):  # whoever loads it says so
        known = {words_of(word) for word in known_words(Path(locate(foundation)))}
    plain = [name.replace("_", " ") for name in classes]
    glossed = phrases(Wording(), classes)
    return [own if words_of(own) in known else gloss for own, gloss in zip(plain, glossed, strict=True)]


def asked(template: str, foundation: str, classes: Sequence[str], styles: str = "") -> list[str]:
    """The template with what each class is called in place of `{class}`: of the first style for all classes, then of the next.

    Args:
        template: with `{class}`, and `{style}` where clients differ in it.
        foundation: as in `diffusion.foundation`.
        classes: names, of which a label is an index.
        styles: what stands for `{style}`: phrases with semicolons between.

    Raises:
        SettingError: the template has no `{class}`, or styles are missing.
    """
    words = called(foundation, classes)
    return [sentence for each in styled(template, styles) for sentence in prompts(each, words)]


def styled(template: str, styles: str) -> list[str]:
    """The template with each style; alone where it has no `{style}`.

    Raises:
        SettingError: a style is missing.
    """
    if STYLE not in template:
        return [template]
    phrases = [phrase.strip() for phrase in styles.split(";")]
    if not all(phrases):
        raise SettingError(
            f"prompt {template!r} has a {STYLE}, and the styles are {styles!r}; give a phrase for each client, "
            "with semicolons between: 'in chalk; in blue ink'"
        )
    return [template.replace(STYLE, phrase) for phrase in phrases]


def of_client(sentences: Sequence[str], classes: int, client: int) -> list[str]:
    """A client's sentences among those of all styles: client i has style i modulo their number, as domains are dealt."""
    first = client % (len(sentences) // classes) * classes
    return list(sentences[first : first + classes])

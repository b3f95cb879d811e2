"""Sentences that a foundation is asked with: one or many a class, taken in turn, and plain phrases for odd class names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedwarm.diffusion.foundation import EMBEDDED
from fedwarm.settings.fields import SettingError, near

PLACE = "{class}"
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
OWN_TEMPLATES = "prompts.txt"  # of a foundation's folder: the sentences that it was trained on

PHOTOS = (
    "a photo of a {class}", "a close-up photo of a {class}", "a bright photo of a {class}", "a dark photo of a {class}",
    "a good photo of a {class}", "a blurry photo of a {class}", "a cropped photo of a {class}", "a photo of a large {class}",
    "a photo of a small {class}", "a photo of one {class}", "a photo of the {class}", "a photo of a {class} from the side",
    "a photo of a {class} from the front", "a photo of a {class} from above", "a photo of a {class} outdoors",
    "a photo of a {class} indoors", "a photo of a {class} in daylight", "a photo of a {class} in the evening",
    "a photo of a {class} on a plain background", "a photo of a {class} in its usual surroundings",
    "a detailed picture of a {class}", "a simple picture of a {class}", "a centred picture of a {class}",
    "a snapshot of a {class}",
)  # fmt: skip
HANDWRITING = (
    "a photo of a {class}", "a photo of a handwritten {class}", "a scan of a handwritten {class}",
    "a handwritten {class} in white on black", "a handwritten {class} in black on white", "a handwritten {class} in ink",
    "a handwritten {class} in chalk", "a handwritten {class} in pencil", "a handwritten {class} with thick strokes",
    "a handwritten {class} with thin strokes", "a slanted handwritten {class}", "an upright handwritten {class}",
    "a neatly written {class}", "a hastily written {class}", "a small handwritten {class}", "a large handwritten {class}",
    "a rounded handwritten {class}", "an angular handwritten {class}", "a centred handwritten {class}",
    "a blurry scan of a handwritten {class}", "a sharp scan of a handwritten {class}", "a grey picture of a handwritten {class}",
    "a single {class} written by hand", "the {class} as a child writes it",
)  # fmt: skip
CLOTHING = (
    "a photo of a {class}", "a product photo of a {class}", "a grey photo of a {class}", "a black and white photo of a {class}",
    "a photo of a {class} on a black background", "a photo of a dark {class}", "a photo of a light {class}",
    "a photo of a patterned {class}", "a photo of a plain {class}", "a photo of a striped {class}", "a photo of a folded {class}",
    "a photo of a {class} from the front", "a photo of a {class} from the side", "a photo of a large {class}",
    "a photo of a small {class}", "a photo of a slim {class}", "a photo of a wide {class}", "a catalogue picture of a {class}",
    "a centred picture of a {class}", "a low-resolution picture of a {class}", "a simple picture of a {class}",
    "a photo of a sporty {class}", "a photo of an elegant {class}", "a photo of one {class}",
)  # fmt: skip
GLYPHS = (
    "a photo of a {class}",
    *(f"a photo of a {PLACE}, {shade}" for shade in (
        "light on dark", "dark on light", "blue on light", "yellow on dark", "dark on cyan", "light on red", "green on light",
        "orange on dark", "light on purple", "dark on yellow", "pink on dark", "brown on light", "dark on pink", "light on blue",
    )),
    *(f"a photo of a {PLACE}, {shade}, {style}" for style in ("thick strokes", "tilted") for shade in (
        "light on dark", "dark on light", "yellow on dark",
    )),
)  # fmt: skip
"""In the words of the captions that `fedwarm.diffusion.pretraining.glyphs` writes: the embedded foundation knows no others."""

DIGITS = {str(i): word for i, word in enumerate(WORDS)}
CAPITALS = {letter: f"capital letter {letter}" for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
LETTERS = {letter.lower(): f"small letter {letter.lower()}" for letter in CAPITALS}
GARMENTS = {
    "T-shirt/top": "t-shirt", "Trouser": "pair of trousers", "Pullover": "pullover", "Dress": "dress", "Coat": "coat",
    "Sandal": "sandal", "Shirt": "long-sleeved shirt", "Sneaker": "sneaker", "Bag": "handbag", "Ankle boot": "ankle boot",
}  # fmt: skip
CIFAR100 = {
    "aquarium_fish": "aquarium fish", "bear": "brown bear", "beaver": "beaver animal", "bed": "bed in a bedroom",
    "beetle": "beetle insect", "bottle": "glass bottle", "bowl": "bowl for food", "bus": "city bus", "can": "tin can",
    "cattle": "cow", "clock": "wall clock", "cloud": "cloud in the sky", "couch": "living room couch", "crab": "sea crab",
    "cup": "coffee cup", "keyboard": "computer keyboard", "lamp": "lamp that gives light", "leopard": "spotted leopard",
    "mouse": "field mouse", "orange": "orange fruit", "orchid": "orchid flower", "pear": "pear fruit",
    "plain": "wide grassy plain", "plate": "dinner plate", "poppy": "poppy flower", "possum": "opossum",
    "ray": "ray fish", "rocket": "space rocket", "rose": "rose flower", "seal": "harbour seal", "shrew": "shrew mammal",
    "skunk": "skunk animal", "streetcar": "tram", "sweet_pepper": "bell pepper", "table": "dining table",
    "tank": "military tank", "train": "railway train", "trout": "trout fish", "worm": "earthworm",
}  # fmt: skip
GLOSSES: tuple[Mapping[str, str], ...] = (DIGITS, CAPITALS, LETTERS, CIFAR100)
"""Each applies where a data set has all of its names: what `orange` is depends on the company that it keeps."""


@dataclass(frozen=True)
class Wording:
    """How a foundation is asked for images, as far as a user says.

    Attributes:
        prompt: one sentence for every class, with `{class}`; empty: many a class, in turn.
        prompts_file: a file of templates, one a line, or JSON {class: [..]}; empty: the foundation's own, or general ones.
        phrases: what classes are called: `ray=ray fish, crab=sea crab`, or a JSON file {class: phrase}.
        prefix: of the settings that these are, for errors.
    """

    prompt: str = ""
    prompts_file: str = ""
    phrases: str = ""
    prefix: str = ""


def prompts(template: str, classes: Sequence[str]) -> list[str]:
    """The template with each class name in place of `{class}`.

    Raises:
        SettingError: the template has no `{class}`.
    """
    if PLACE not in template:
        raise SettingError(f"prompt {template!r} does not say where the class stands; write {PLACE} there")
    return [template.replace(PLACE, name.replace("_", " ")) for name in classes]


def phrases(wording: Wording, classes: Sequence[str]) -> list[str]:
    """The name of each class in a sentence: the user's phrase, else a gloss, else its name without underscores.

    Raises:
        SettingError: `phrases` cannot be read, or names an unknown class.
    """
    told = _told_phrases(wording)
    for name in told:
        if name not in classes:
            raise SettingError(
                f"{wording.prefix}phrases: {name!r} is not a class{near(name, list(classes))}; there are {', '.join(classes)}"
            )
    known = {name: phrase for table in GLOSSES if set(table) <= set(classes) for name, phrase in table.items()}
    known |= _spelled(classes)
    return [told.get(name, known.get(name, name.replace("_", " "))) for name in classes]


def _spelled(classes: Sequence[str]) -> dict[str, str]:
    """Glosses of clothes however their names are spaced, as in `T - shirt / top`."""
    plain = {name.replace(" ", "").lower(): phrase for name, phrase in GARMENTS.items()}
    found = {name: plain[key] for name in classes if (key := name.replace(" ", "").lower()) in plain}
    return found if len(found) == len(GARMENTS) else {}


def sentences(wording: Wording, foundation: str, folder: Path | None, classes: Sequence[str]) -> list[list[str]]:
    """The sentences of each class; image i of a class is drawn from number i modulo their number.

    Args:
        wording: the user's own choice.
        foundation: as in `diffusion.foundation`.
        folder: where it lies, if it is a folder; its own `prompts.txt` comes before the general templates.
        classes: names, of which a label is an index.

    Raises:
        SettingError: a template has no `{class}`, or a file cannot be used.
    """
    called = phrases(wording, classes)
    if wording.prompt:
        return [[wording.prompt.replace(PLACE, phrase)] for phrase in called]
    if wording.prompts_file.endswith(".json"):
        return _told_sentences(wording, classes)
    said = templates(wording, foundation, folder, called)
    return [[template.replace(PLACE, phrase) for template in said] for phrase in called]


def templates(wording: Wording, foundation: str, folder: Path | None, called: Sequence[str]) -> tuple[str, ...]:
    """The templates that are used in turn: the user's, the foundation's own, or those that suit the classes."""
    if wording.prompts_file:
        return read_templates(Path(wording.prompts_file), f"{wording.prefix}prompts-file = {wording.prompts_file!r}")
    if folder is not None and (folder / OWN_TEMPLATES).is_file():
        return read_templates(folder / OWN_TEMPLATES, f"{OWN_TEMPLATES} of diffusion.foundation = {foundation!r}")
    if foundation in EMBEDDED:
        return GLYPHS
    written = set(WORDS) | set(CAPITALS.values()) | set(LETTERS.values())
    for names, chosen in ((written, HANDWRITING), (set(GARMENTS.values()), CLOTHING)):
        if set(called) <= names:
            return chosen
    return PHOTOS


def read_templates(path: Path, what: str) -> tuple[str, ...]:
    """One template a line; empty lines and those that begin with # are left out.

    Raises:
        SettingError: it cannot be read, a line has no `{class}`, or there is none; `what` names it.
    """
    lines = [line.strip() for line in _text(path, what).splitlines()]
    kept = [(number, line) for number, line in enumerate(lines, 1) if line and not line.startswith("#")]
    for number, line in kept:
        if PLACE not in line:
            raise SettingError(f"{what}: line {number}, {line[:80]!r}, does not say where the class stands; write {PLACE} there")
    if not kept:
        raise SettingError(f"{what} has no template; write one with {PLACE} a line")
    return tuple(line for _, line in kept)


def _told_sentences(wording: Wording, classes: Sequence[str]) -> list[list[str]]:
    what = f"{wording.prefix}prompts-file = {wording.prompts_file!r}"
    told = _object(Path(wording.prompts_file), what)
    for name in told:
        if name not in classes:
            raise SettingError(f"{what}: {name!r} is not a class{near(name, list(classes))}; there are {', '.join(classes)}")
    for name in classes:
        found = told.get(name)
        if not isinstance(found, list) or not found or not all(isinstance(line, str) and line.strip() for line in found):
            raise SettingError(f"{what} has no sentences for class {name!r}; give every class a list of at least one")
    return [[line.strip() for line in told[name]] for name in classes]


def _told_phrases(wording: Wording) -> dict[str, str]:
    text, what = wording.phrases, f"{wording.prefix}phrases = {wording.phrases!r}"
    if text.endswith(".json"):
        told = _object(Path(text), what)
        if not all(isinstance(phrase, str) and phrase.strip() for phrase in told.values()):
            raise SettingError(f"{what} must give each class one phrase: {{class: phrase}}")
        return {name: phrase.strip() for name, phrase in told.items()}
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    if not all(name.strip() and phrase.strip() for name, _, phrase in pairs):
        raise SettingError(f"{what} is not a list of phrases; write e.g. 'ray=ray fish, crab=sea crab'")
    return {name.strip(): phrase.strip() for name, _, phrase in pairs}


def _object(path: Path, what: str) -> dict[str, Any]:
    text = _text(path, what)
    try:
        told = json.loads(text)
    except ValueError:
        told = None
    if not isinstance(told, dict):
        raise SettingError(f"{what} holds no JSON object; write {{class: ..}}")
    return told


def _text(path: Path, what: str) -> str:
    try:
        return path.expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise SettingError(f"{what} cannot be read: {type(error).__name__}; give an existing text file") from error

"""Sentences: enough of them, in the foundation's own words, with plain names, and the user's own before all."""

from __future__ import annotations

import json
import string
from pathlib import Path

import pytest

from fedwarm.core.seeds import generator
from fedwarm.diffusion.foundation import asset_folder
from fedwarm.diffusion.pretraining.glyphs import font_masks, glyph_batch
from fedwarm.diffusion.sentences import (
    CIFAR100,
    CLOTHING,
    GLYPHS,
    HANDWRITING,
    OWN_TEMPLATES,
    PHOTOS,
    WORDS,
    Wording,
    phrases,
    prompts,
    sentences,
    templates,
)
from fedwarm.settings.fields import SettingError

DIGITS = tuple(string.digits)
FASHION = (
    "T - shirt / top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
PETS = ("cat", "guinea_pig")


@pytest.mark.parametrize("pool", [PHOTOS, HANDWRITING, CLOTHING, GLYPHS], ids=["photos", "handwriting", "clothing", "glyphs"])
def test_pools_hold_twenty_different_templates_and_begin_with_the_plain_one(pool: tuple[str, ...]) -> None:
    assert len(pool) >= 20 and len(set(pool)) == len(pool) and pool[0] == "a photo of a {class}"
    assert all(template.count("{class}") == 1 for template in pool)


@pytest.mark.long
def test_the_embedded_foundation_is_asked_in_the_words_of_its_captions() -> None:
    captions = glyph_batch(font_masks(), 3000, generator(0, "captions"))[1]
    known = {word.strip(",") for caption in captions for word in caption.split()}
    asked = sentences(Wording(), "glyph", asset_folder("glyph"), DIGITS)
    assert [len(own) for own in asked] == [len(GLYPHS)] * 10 and asked[7][0] == "a photo of a seven"
    assert {word.strip(",") for own in asked for line in own for word in line.split()} <= known


@pytest.mark.parametrize(
    ("classes", "pool"),
    [
        (DIGITS, HANDWRITING),
        (WORDS, HANDWRITING),
        (tuple(string.digits + string.ascii_uppercase + string.ascii_lowercase), HANDWRITING),
        (FASHION, CLOTHING),
        (PETS, PHOTOS),
        (("0", "1", "cat"), PHOTOS),
    ],
)
def test_templates_suit_the_classes(classes: tuple[str, ...], pool: tuple[str, ...]) -> None:
    assert templates(Wording(), "owner/model", None, phrases(Wording(), classes)) == pool
    asked = sentences(Wording(), "owner/model", None, classes)
    assert [len(own) for own in asked] == [len(pool)] * len(classes)
    assert len({line for own in asked for line in own}) == len(pool) * len(classes)


def test_names_that_say_little_are_explained() -> None:
    assert phrases(Wording(), DIGITS) == list(WORDS)
    assert phrases(Wording(), PETS) == ["cat", "guinea pig"]
    assert phrases(Wording(), FASHION)[:2] == ["t-shirt", "pair of trousers"]
    letters = phrases(Wording(), tuple(string.digits + string.ascii_uppercase + string.ascii_lowercase))
    assert letters[3] == "three" and letters[10] == "capital letter A" and letters[36] == "small letter a"
    hundred = (*CIFAR100, "apple", "lawn_mower")
    told = dict(zip(hundred, phrases(Wording(), hundred), strict=True))
    assert told["ray"] == "ray fish" and told["tank"] == "military tank" and told["lawn_mower"] == "lawn mower"
    assert not {phrase for phrase in told.values() if "_" in phrase}
    assert phrases(Wording(), ("ray", "tank", "sun")) == ["ray", "tank", "sun"], "elsewhere they may mean something else"


def test_the_users_phrases_come_first(tmp_path: Path) -> None:
    assert phrases(Wording(phrases="0 = round zero, 3=tall three,"), DIGITS)[:4] == ["round zero", "one", "two", "tall three"]
    path = tmp_path / "p.json"
    path.write_text(json.dumps({"guinea_pig": "cavy, a small rodent"}))
    assert phrases(Wording(phrases=str(path)), PETS) == ["cat", "cavy, a small rodent"]
    single = Wording(prompt="one {class}", phrases="cat=tabby")
    assert sentences(single, "glyph", None, PETS) == [["one tabby"], ["one guinea pig"]]


def test_a_foundations_own_templates(tmp_path: Path) -> None:
    (tmp_path / OWN_TEMPLATES).write_text("# as trained\na grey {class}\n\n  {class} seen from far  \n", encoding="utf-8")
    assert sentences(Wording(), str(tmp_path), tmp_path, PETS)[1] == ["a grey guinea pig", "guinea pig seen from far"]
    own = tmp_path / "own.txt"
    own.write_text("my {class}\n")
    assert sentences(Wording(prompts_file=str(own)), str(tmp_path), tmp_path, PETS) == [["my cat"], ["my guinea pig"]]


def test_sentences_of_the_users_own_for_every_class(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text(json.dumps({"guinea_pig": ["a cavy", " two cavies "], "cat": ["a tabby"]}))
    assert sentences(Wording(prompts_file=str(path)), "glyph", None, PETS) == [["a tabby"], ["a cavy", "two cavies"]]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.txt", "a {class}\na cat\n", "line 2, 'a cat', does not say where the class stands"),
        ("p.txt", "# none\n", "has no template"),
        ("p.txt", None, "cannot be read"),
        ("p.json", "[1]", "holds no JSON object"),
        ("p.json", "{", "holds no JSON object"),
        ("p.json", '{"cat": ["a"]}', "no sentences for class 'guinea_pig'"),
        ("p.json", '{"cat": [], "guinea_pig": ["b"]}', "no sentences for class 'cat'"),
        ("p.json", '{"cats": ["a"]}', r"'cats' is not a class \(did you mean cat\?\)"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, name: str, content: str | None, said: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingError, match=said) as error:
        sentences(Wording(prompts_file=str(path), prefix="gen-fedsd."), "glyph", None, PETS)
    assert "\n" not in str(error.value) and f"gen-fedsd.prompts-file = {str(path)!r}" in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cat", "is not a list of phrases"),
        ("cat=", "is not a list of phrases"),
        ("cta=tabby", r"'cta' is not a class \(did you mean cat\?\); there are cat, guinea_pig"),
        ("/nowhere/p.json", "cannot be read"),
    ],
)
def test_phrases_that_cannot_be_used(text: str, said: str) -> None:
    with pytest.raises(SettingError, match=said) as error:
        phrases(Wording(phrases=text, prefix="gen-fedsd."), PETS)
    assert "\n" not in str(error.value) and "gen-fedsd.phrases" in str(error.value)


def test_phrases_in_a_file_are_texts(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{"cat": ["tabby"]}')
    with pytest.raises(SettingError, match="must give each class one phrase"):
        phrases(Wording(phrases=str(tmp_path / "p.json")), PETS)


# One sentence a class


def test_the_class_stands_where_the_template_says() -> None:
    assert prompts("a photo of a {class}", ["cat", "dog"]) == ["a photo of a cat", "a photo of a dog"]
    assert prompts("{class}, a drawing of one {class}", ["cat"]) == ["cat, a drawing of one cat"]


def test_names_of_two_words_are_spoken() -> None:
    assert prompts("a {class}", ["alarm_clock"]) == ["a alarm clock"]


def test_other_braces_stay() -> None:
    assert prompts("{style} {class} {0}", ["cat"]) == ["{style} cat {0}"]


@pytest.mark.parametrize("template", ["", "a photo", "a photo of a {klass}", "a photo of a { class }"])
def test_a_template_without_class_is_refused(template: str) -> None:
    with pytest.raises(SettingError, match=r"\{class\}") as caught:
        prompts(template, ["cat"])
    assert repr(template) in str(caught.value)

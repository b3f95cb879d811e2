"""Which classes a foundation was trained on is told before a run that asks for others, and in its record."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fedwarm.catalogue import parse
from fedwarm.diffusion.foundation import asset_folder
from fedwarm.diffusion.sentences import WORDS
from fedwarm.rounds.foundation_words import known_words, refuse_strangers, remark, strangers
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError, Value

Configure = Callable[..., Config]
GARMENTS = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"
)  # fmt: skip


def warmfed(**changes: Value) -> Config:
    return parse({"method": "warmfed", **{key.replace("__", ".").replace("_", "-"): value for key, value in changes.items()}})


def test_the_embedded_foundation_says_what_it_knows() -> None:
    folder = asset_folder("glyph")
    assert folder is not None and known_words(folder) == (*WORDS, *"0123456789")


def test_digits_are_known_by_either_name(configure: Configure) -> None:
    for config in (warmfed(), configure()):
        for names in (WORDS, tuple("0123456789"), [word.upper() for word in WORDS]):
            assert strangers(config, names) == [] and remark(config, names) == ""
            refuse_strangers(config, names)


def test_classes_that_nobody_taught_it_are_told() -> None:
    told = remark(warmfed(), GARMENTS)
    assert told.startswith("diffusion.foundation = 'glyph' was not trained on 10 of 10 classes (T-shirt/top, Trouser, ")
    assert "only what the adapters learn" in told and "foundation train" in told and "\n" not in told
    refuse_strangers(warmfed(), GARMENTS)


def test_what_can_be_nothing_but_noise_is_refused(configure: Configure) -> None:
    for config in (warmfed(warmfed__adapt=False), configure()):
        with pytest.raises(
            SettingError, match=r"trained on zero, .*, \.\. and on none of the classes T-shirt/top, .*: it would draw noise"
        ):
            refuse_strangers(config, GARMENTS)


def test_some_unknown_ones_are_named_alone(configure: Configure) -> None:
    for config in (warmfed(warmfed__adapt=False), configure()):
        refuse_strangers(config, ("one", "a cat", "two"))
        assert "1 of 3 classes (a cat): what it draws of them is noise" in remark(config, ("one", "a cat", "two"))


def test_class_1_is_not_1_and_a_one_eyed_cat_is_not_one(configure: Configure) -> None:
    names = ("class 1", "one-eyed cat", "type_2", "seventeen", "seven")
    for config in (warmfed(), configure()):
        assert strangers(config, names) == [*names[:-1]]


def test_phrases_and_sentences_count_as_they_are_asked(configure: Configure, tmp_path: Path) -> None:
    names = ("nought", "cat")
    assert strangers(configure(phrases="nought=zero"), names) == ["cat"]
    sentences = tmp_path / "sentences.json"
    sentences.write_text(json.dumps({"nought": ["a handwritten ZERO, large"], "cat": ["a photo of a one-eyed cat"]}))
    assert strangers(configure(prompts_file=str(sentences)), names) == ["cat"]


@pytest.mark.parametrize("recipe", [None, "", "[]", "{}", '{"data": 3}', '{"classes": "all"}', '{"data": {"classes": []}}'])
def test_a_foundation_that_does_not_say_is_believed(recipe: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if recipe is not None:
        (tmp_path / "recipe.json").write_text(recipe)
    assert known_words(tmp_path) == ()
    monkeypatch.setattr("fedwarm.rounds.foundation_words.locate", lambda _: str(tmp_path))
    refuse_strangers(warmfed(warmfed__adapt=False), GARMENTS)
    assert remark(warmfed(), GARMENTS) == ""


def test_a_foundation_of_public_images_knows_its_phrases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configure: Configure
) -> None:
    (tmp_path / "recipe.json").write_text(json.dumps({"data": {"classes": ["t-shirt", "pair of trousers", "coat"]}}))
    monkeypatch.setattr("fedwarm.rounds.foundation_words.locate", lambda _: str(tmp_path))
    assert strangers(warmfed(), ("T-shirt", "Pair_of_trousers", "Coat", "Bag")) == ["Bag"]
    assert "Coat" not in strangers(configure(), GARMENTS) and "Bag" in strangers(configure(), GARMENTS)


def test_runs_that_draw_nothing_say_nothing(configure: Configure) -> None:
    quiet = (
        parse({"method": "fedavg"}), warmfed(warmfed__synthetic_ratio=0.0), configure(provider="none"),
        configure(provider="transforms"), warmfed(diffusion__foundation="owner/model"),
    )  # fmt: skip
    for config in quiet:
        assert remark(config, GARMENTS) == ""
        refuse_strangers(config, GARMENTS)


def test_what_cannot_be_used_is_told_elsewhere(configure: Configure) -> None:
    assert remark(warmfed(diffusion__foundation="nonsense"), GARMENTS) == ""
    assert remark(configure(phrases="no list"), GARMENTS) == ""

"""What a class is called depends on what the foundation learned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedwarm.diffusion import asking
from fedwarm.diffusion.asking import asked, called, of_client
from fedwarm.settings.fields import SettingError

DIGITS = tuple("0123456789")
GARMENTS = ("T - shirt / top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def test_the_embedded_foundation_knows_figures_and_words() -> None:
    assert asked("a photo of a {class}", "glyph", DIGITS)[7] == "a photo of a 7"
    assert asked("a photo of a {class}", "glyph", ("zero", "one"))[1] == "a photo of a one"


def test_others_are_asked_by_what_people_say() -> None:
    assert called("owner/model", DIGITS)[7] == "seven"
    assert called("owner/model", GARMENTS)[:2] == ["t-shirt", "pair of trousers"]
    assert called("owner/model", ("polar_bear", "7")) == ["polar bear", "7"]


def test_a_foundation_is_asked_by_the_names_that_its_recipe_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "locate", lambda _: str(tmp_path))
    (tmp_path / "recipe.json").write_text(json.dumps({"data": {"classes": ["seven", "t-shirt"]}}))
    assert called("mine", DIGITS)[7] == "seven"
    (tmp_path / "recipe.json").write_text(json.dumps({"classes": list(DIGITS[:8])}))
    assert called("mine", DIGITS)[6:] == ["6", "7", "eight", "nine"]


def test_clients_have_styles_in_turn() -> None:
    said = asked("a photo of a {class}, {style}", "glyph", ("zero", "one"), "light on dark; dark on light, tilted")
    assert of_client(said, 2, 0) == ["a photo of a zero, light on dark", "a photo of a one, light on dark"]
    assert of_client(said, 2, 1) == ["a photo of a zero, dark on light, tilted", "a photo of a one, dark on light, tilted"]
    assert of_client(said, 2, 5) == of_client(said, 2, 1)
    assert of_client(asked("a {class}", "glyph", ("zero", "one")), 2, 3) == ["a zero", "a one"]


@pytest.mark.parametrize("styles", ["", "in chalk;", " ; in ink"])
def test_a_style_that_is_missing_is_said(styles: str) -> None:
    with pytest.raises(SettingError, match="give a phrase for each client, with semicolons between"):
        asked("a {class} {style}", "glyph", ("zero", "one"), styles)


def test_a_foundation_that_is_not_there_does_not_matter_until_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: str) -> str:
        raise SettingError("not here")

    monkeypatch.setattr(asking, "locate", none)
    assert called("glyph", ("zero", "one")) == ["zero", "one"]

"""Prompts: one sentence per class."""

from __future__ import annotations

import pytest

from fedwarm.diffusion.prompts import prompts
from fedwarm.settings.fields import SettingError


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

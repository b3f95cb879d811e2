"""Names of classes: one order for all, the same name in whatever form it is written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedwarm.data.classes import listed, lookalikes, places, plain, shown, union
from fedwarm.settings.fields import SettingError

E_COMPOSED, E_DECOMPOSED = "caf\u00e9", "cafe\u0301"


def test_the_union_is_sorted_by_number_where_all_are_whole_numbers() -> None:
    assert union([["10", "2"], ["-1", "2", "07"]]) == ("-1", "2", "07", "10")
    assert union([["10", "2"], ["cat"]]) == ("10", "2", "cat")
    assert union([["cat", "dog"], ["fox", "dog"]]) == ("cat", "dog", "fox")


def test_the_same_letters_in_another_form_are_the_same_name() -> None:
    assert union([[E_COMPOSED], [f" {E_DECOMPOSED} "]]) == (E_COMPOSED,)
    assert places([E_DECOMPOSED, "x"], (E_COMPOSED,)) == [0, -1]


@given(st.lists(st.lists(st.text(max_size=3), max_size=4), min_size=1, max_size=4))
def test_the_union_holds_every_name_once_whoever_comes_first(lists: list[list[str]]) -> None:
    found = union(lists)
    assert found == union(reversed(lists)) and len(set(found)) == len(found)
    for own in lists:
        assert [found[place] for place in places(own, found)] == [plain(name) for name in own]


def test_listed_classes_keep_their_order() -> None:
    assert listed(" fox, cat ,dog") == ("fox", "cat", "dog") and listed("  ") == ()
    for text, said in (("a,,b", "an empty name"), ("a,b, a", "'a' twice"), ("a", "is one class")):
        with pytest.raises(SettingError, match=f"data.classes = {text!r}.*{said}"):
            listed(text)


def test_names_that_look_alike_are_named_together() -> None:
    assert lookalikes(["cat", "dog"]) == ""
    told = lookalikes(["Polar Bear", "cat", "polar_bear", "polar-bear"])
    assert told.startswith("classes 'Polar Bear' and 'polar_bear' and 'polar-bear' differ in spelling alone")
    assert shown([str(i) for i in range(12)]) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"

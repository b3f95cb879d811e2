"""Texts for people: nothing of what a user wrote is lost or acts, at any width."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedwarm.core.text import cells, definitions, in_markdown, paragraph, table, uncoloured, visible, wrapped

WORDS = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zs", "Zl", "Zp", "Mn", "Me", "Cf"]), min_size=1, max_size=30)
TEXTS = st.lists(WORDS, min_size=1, max_size=8).map(" ".join)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[bold] [/b] $x$ _a <b>", "[bold] [/b] $x$ _a <b>"),
        ("数字 é שלום ±", "数字 é שלום ±"),
        ("a\x1b[31mred\nb\tc\x07\x9b", r"a\x1b[31mred\nb\tc\x07\x9b"),
        ("\u202egpj.exe\u2028", r"\u202egpj.exe\u2028"),
    ],
)
def test_what_would_act_is_seen_and_the_rest_stays(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert visible(f"{text}\n{text}", lines=True).count("\n") == 1 + 2 * text.count("\n")


def test_colours_go() -> None:
    assert uncoloured("\x1b[92mINFO \x1b[0m: a [b]") == "INFO : a [b]"


def test_markdown_shows_the_text_itself() -> None:
    assert in_markdown("a|b <i> [x](y) `c` & *d* a.b") == r"a\|b &lt;i&gt; \[x\](y) \`c\` &amp; \*d\* a.b"


@pytest.mark.parametrize(("text", "count"), [("abc", 3), ("数字", 4), ("e\u0301", 1), ("é±", 2), ("", 0)])
def test_columns_of_a_text(text: str, count: int) -> None:
    assert cells(text) == count


@settings(max_examples=60)
@given(TEXTS, st.integers(2, 50))
def test_wrapping_loses_no_character_and_keeps_the_width(text: str, width: int) -> None:
    lines = wrapped(text, width)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(cells(line) <= width for line in lines)
    shown = paragraph(text, width, 2, 3).split("\n")
    assert "".join(shown).replace(" ", "") == text.replace(" ", "")
    assert shown[0].startswith("  ") and all(line.startswith(" " * 5) for line in shown[1:])


def test_blanks_inside_a_line_stay() -> None:
    assert wrapped("a  b c", 6) == ["a  b c"] and wrapped("a  b c", 4) == ["a  b", "c"] and wrapped("", 5) == [""]


@settings(max_examples=60)
@given(st.lists(st.lists(TEXTS, min_size=4, max_size=4), min_size=1, max_size=4), st.none() | st.integers(6, 120), st.booleans())
def test_a_table_holds_every_cell_at_any_width(rows: list[list[str]], width: int | None, right: bool) -> None:
    heads = ["run", "value", "default", "bytes up"]
    lines = table(heads, rows, width, right=right).split("\n")
    assert "".join(lines).replace(" ", "") == "".join(map("".join, [heads, *rows])).replace(" ", "")
    assert width is None or all(cells(line) <= width for line in lines)
    assert width is not None or len(lines) == 1 + len(rows)


def test_a_table_that_is_too_wide_goes_on_below_its_heads() -> None:
    rows = [["first", "fedavg", "2026-11-26"], ["[b]", "数字", "-"]]
    assert table(["run", "method", "written"], rows) == ("run    method  written\nfirst  fedavg  2026-11-26\n[b]    数字    -")
    assert table(["run", "method", "written"], rows, 20) == (
        "run    method\n  written\nfirst  fedavg\n  2026-11-26\n[b]    数字\n  -"
    )
    assert table(["a", "long"], [["1", "2"]], right=True) == "a  long\n1     2"


@settings(max_examples=40)
@given(st.lists(st.tuples(WORDS, TEXTS), min_size=1, max_size=4), st.none() | st.integers(10, 120))
def test_definitions_hold_every_word_at_any_width(pairs: list[tuple[str, str]], width: int | None) -> None:
    lines = definitions(pairs, width, 2).split("\n")
    assert "".join(lines).replace(" ", "") == "".join(map("".join, pairs)).replace(" ", "")
    assert width is None or all(cells(line) <= width for line in lines)

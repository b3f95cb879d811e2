"""Text for people: what users wrote stands as they wrote it, and tables and paragraphs fit any width without losing a word.

Nothing here prints; `fedwarm.core.terminal` does. Markup of any kind (of rich, of Markdown, of terminals) means nothing in what
these functions take: brackets and dollars are characters like others, control characters are shown as escapes.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

GAP = 2
LEAST_BESIDE = 40
NARROW, INDENT, NARROW_INDENT = 40, 4, 2
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_MARKDOWN = re.compile(r"([\\`*_\[\]|~$])")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def visible(text: str, *, lines: bool = False) -> str:
    """The text with an escape such as `\\x1b` in place of what would move a cursor, colour the rest, or turn its direction.

    Args:
        text: anything.
        lines: line breaks stay as they are; else they are escapes, too, and the text is one line.
    """
    return _UNSEEN.sub(lambda found: found[0] if lines and found[0] == "\n" else _escape(found[0]), text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def uncoloured(text: str) -> str:
    """The text without terminal colours."""
    return _COLOUR.sub("", text)


def in_markdown(text: str) -> str:
    """The text as it must be written into a Markdown table to appear as it is."""
    safe = "".join(_ENTITIES.get(character, character) for character in visible(text))
    return _MARKDOWN.sub(r"\\\1", safe)


def cells(text: str) -> int:
    """Columns that a terminal needs: two for wide characters, none for those that join the one before."""
    if text.isascii():
        return len(text)
    return sum(map(_cells_of, text))


def _cells_of(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def wrapped(text: str, width: int | None) -> list[str]:
    """The lines of a text that is broken at blanks, and inside a word only where it is longer than a line; None: one line."""
    if width is None:
        return [text]
    lines, line = [], ""
    for word in re.findall(r" *[^ ]+", text):
        if cells(line) + cells(word) <= width:
            line += word
            continue
        lines += [line] if line else []
        word = word.lstrip(" ") if lines else word
        while cells(word) > width:
            head = _head(word, width)
            lines.append(head)
            word = word[len(head) :]
        line = word
    return [*lines, line] if line or not lines else lines


def _head(word: str, width: int) -> str:
    """As many characters as fit, at least one."""
    taken = 0
    for place, character in enumerate(word):
        taken += _cells_of(character)
        if taken > width:
            return word[: max(1, place)]
    return word


def paragraph(text: str, width: int | None, indent: int = 0, hang: int = 0) -> str:
    """A text wrapped to lines that begin with `indent` blanks, and `hang` more from the second on."""
    if width is None:
        return (" " * indent + text).rstrip()
    first, *rest = wrapped(text, max(1, width - indent))
    if rest and hang:
        rest = wrapped(text[len(first) :].lstrip(" "), max(1, width - indent - hang))
    return "\n".join([(" " * indent + first).rstrip(), *((" " * (indent + hang) + line).rstrip() for line in rest)])


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], width: int | None = None, *, right: bool = False) -> str:
    """Rows below their heads, columns aligned, two blanks between them.

    Args:
        heads: of the columns.
        rows: a text for every column.
        width: columns of the terminal; where the table is wider, every row goes on in further lines, indented, and the heads
            with it. None: one line a row, however long.
        right: cells stand at the right end of their columns.
    """
    shown = [[visible(cell) for cell in row] for row in (heads, *rows)]
    widest = [max(cells(row[i]) for row in shown) for i in range(len(heads))]
    indent = 0 if width is None else NARROW_INDENT if width < NARROW else INDENT
    groups = _groups(widest, width, indent)
    return "\n".join(
        line
        for row in shown
        for number, group in enumerate(groups)
        for line in _row([row[i] for i in group], [widest[i] for i in group], width, indent * (number > 0), right)
    )


def _groups(widest: Sequence[int], width: int | None, indent: int) -> list[list[int]]:
    """The columns that stand in one line together: as many as fit."""
    groups: list[list[int]] = [[]]
    taken = 0
    for column, size in enumerate(widest):
        if width is not None and groups[-1] and taken + GAP + size > width:
            groups.append([])
        taken = taken + GAP + size if groups[-1] else indent * (len(groups) > 1) + size
        groups[-1].append(column)
    return groups


def _row(row: Sequence[str], widest: Sequence[int], width: int | None, indent: int, right: bool) -> list[str]:
    if len(row) == 1 and width is not None:
        return paragraph(row[0], width, indent).split("\n")
    blanks = (" " * (size - cells(cell)) for cell, size in zip(row, widest, strict=True))
    padded = (blank + cell if right else cell + blank for cell, blank in zip(row, blanks, strict=True))
    return [(" " * indent + (" " * GAP).join(padded)).rstrip()]


def definitions(pairs: Sequence[tuple[str, str]], width: int | None, indent: int = 0) -> str:
    """Names with what they mean beside them, or below where less than `LEAST_BESIDE` columns are left beside them."""
    shown = [(visible(name), visible(text)) for name, text in pairs]
    beside = indent + max((cells(name) for name, _ in shown), default=0) + GAP
    if width is not None and width - beside < LEAST_BESIDE:
        step = NARROW_INDENT if width < NARROW else INDENT
        parts = ((paragraph(name, width, indent), paragraph(text, width, indent + step)) for name, text in shown)
        return "\n".join(line for name, text in parts for line in (name, text) if line)
    lines = []
    for name, text in shown:
        first, *rest = wrapped(text, None if width is None else width - beside)
        head = " " * indent + name
        lines.append((head + " " * (beside - cells(head)) + first).rstrip())
        lines += [" " * beside + line for line in rest]
    return "\n".join(lines)


def words_of(text: str) -> str:
    """A text as it is compared: in small letters, with one blank between words."""
    return " ".join(text.lower().split())

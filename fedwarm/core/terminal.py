"""Standard output and error as they are: any encoding, any width, a file, or a pipe that nobody reads any more.

No colour and no markup: what is printed here is what was given, with control characters as escapes (`fedwarm.core.text.visible`).
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress

from fedwarm.core.failures import RunError
from fedwarm.core.text import definitions, table, visible

ERRORS = "fedwarm.plain"
CLOSED_PIPE = 141
"""Exit code of a program whose reader is gone: 128 and SIGPIPE's number, as shells tell it."""
PLAIN = {
    "\u00a0": " ", "\u2013": "-", "\u2014": "-", "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2026": "...",
    "\u00b1": "+-", "\u00b7": ".", "\u00d7": "x", "\u2192": "->", "\u2212": "-", "\u2264": "<=", "\u2265": ">=",
    "\u2500": "-", "\u2501": "-", "\u2502": "|", "\u2514": "`", "\u251c": "|", "\u2578": "-", "\u257a": "-",
}  # fmt: skip


def prepare() -> None:
    """From here on no character fails to be printed: what the encoding lacks comes out as its nearest sign, or as an escape."""
    codecs.register_error(ERRORS, _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ERRORS)


def _plain(error: UnicodeError) -> tuple[str | bytes, int]:
    """One character in the place of one that cannot be encoded; bytes of a file's name that are no text stay those bytes."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    if 0xDC80 <= ord(character) <= 0xDCFF and "\n".encode(error.encoding) == b"\n":
        return bytes([ord(character) - 0xDC00]), error.start + 1
    escaped = character.encode("ascii", "backslashreplace").decode("ascii")
    return PLAIN.get(character, escaped), error.start + 1


def columns() -> int | None:
    """The width to print for: what COLUMNS says, else the terminal's; None where output is a file or a pipe."""
    told = os.environ.get("COLUMNS", "")
    if told.isascii() and told.isdigit() and int(told) > 0:
        return int(told)
    if sys.stdout is None or not sys.stdout.isatty():
        return None
    with suppress(OSError, ValueError):
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
    return None


def lively(stream: object, least: int = 0) -> bool:
    """Whether a stream is a terminal that can redraw lines, with at least so many columns."""
    if not getattr(stream, "isatty", bool)() or os.environ.get("TERM", "") in ("dumb", "unknown"):
        return False
    told = os.environ.get("COLUMNS", "")
    with suppress(OSError, ValueError, AttributeError):
        wide = int(told) if told.isdigit() else os.get_terminal_size(stream.fileno()).columns  # type: ignore[attr-defined]
        return wide == 0 or wide >= least
    return True


def put(text: str) -> None:
    """Print a result to standard output."""
    _print(visible(text, lines=True))


def show(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table to standard output, as wide as that is."""
    _print(table(heads, rows, columns()))


def define(pairs: Sequence[tuple[str, str]]) -> None:
    """Print names and what they mean to standard output."""
    _print(definitions(pairs, columns()))


def flush() -> None:
    """Write what standard output still holds back.

    Raises:
        RunError: it cannot be written.
        BrokenPipeError: its reader is gone.
    """
    _print("", end="")


def _print(text: str, end: str = "\n") -> None:
    try:
        print(text, end=end, flush=not end)
    except OSError as error:
        if closed(error):
            raise
        forget()
        raise RunError(f"standard output cannot be written: {error.strerror}; give it another place") from error


def say(text: str) -> None:
    """Print what goes on to standard error. What is said is not the work: nothing ends because nobody can hear it."""
    with suppress(OSError, ValueError):
        print(visible(text, lines=True), file=sys.stderr, flush=True)


def closed(error: BaseException | None) -> bool:
    """Whether this says that the reader of a pipe is gone."""
    return isinstance(error, OSError) and error.errno == errno.EPIPE


def forget() -> None:
    """Let what is still to be written to standard output go nowhere, so that the end of the process is quiet."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

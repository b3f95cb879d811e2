"""Standard output and error in any encoding, at any width, in pipes that are read to their end or not."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedwarm.core import terminal
from fedwarm.core.failures import RunError
from fedwarm.core.progress import tick
from fedwarm.launch import display
from tests.report_page import results, write

MAIN = [sys.executable, "-c", "import sys; sys.argv[0] = 'fedwarm'; from fedwarm.cli.app import main; main()"]
TEXT = "± … → – 数字 é [/b] \udcff"


class Screen(io.StringIO):
    """A terminal, as far as programs ask."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("ascii", rb"+- ... -> - \u6570\u5b57 \xe9 [/b] " + b"\xff"),
        ("cp1252", b"\xb1 \x85 -> \x96 " + rb"\u6570\u5b57 " + b"\xe9 [/b] \xff"),
        ("utf-8", "± … → – 数字 é [/b] ".encode() + b"\xff"),
        ("utf-16-le", ("± … → – 数字 é [/b] " + r"\udcff").encode("utf-16-le")),
    ],
)
def test_every_character_is_printed_in_every_encoding(encoding: str, expected: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, newline="")
    monkeypatch.setattr(sys, "stdout", stream)
    terminal.prepare()
    print(TEXT, end="", flush=True)
    assert raw.getvalue() == expected


def test_the_width_is_the_terminals_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert terminal.columns() is None
    for told, width in (("40", 40), ("0", None), ("", None), ("wide", None), ("-3", None)):
        monkeypatch.setenv("COLUMNS", told)
        assert terminal.columns() == width


@pytest.mark.parametrize(("term", "wide", "lively"), [("xterm", "80", True), ("dumb", "80", False), ("xterm", "40", False)])
def test_only_a_terminal_with_room_is_redrawn(term: str, wide: str, lively: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("COLUMNS", wide)
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    assert terminal.lively(screen, 72) is lively and not terminal.lively(io.StringIO())
    with display.shown("run [/b] [red]x"):
        tick("train", 2, 2, "class [/i]")
    told = screen.getvalue()
    assert "class [/i]" in told and ("\x1b[" in told) is lively
    assert ("run [/b] [red]x" in told) is lively


def test_no_colour_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    import re

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    with display.shown("title"):
        tick("train", 1, 2)
    codes = {code for found in re.findall(r"\x1b\[([0-9;]*)m", screen.getvalue()) for code in found.split(";")}
    assert not {code for code in codes if code.isdigit() and int(code) >= 30}, codes


def test_nothing_ends_because_nobody_hears_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, text: str, /) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(sys, "stderr", Gone())
    terminal.say("half way")
    with display.shown("a run"):
        tick("train", 2, 2)


def test_a_result_that_cannot_be_written_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, text: str, /) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    with pytest.raises(RunError, match="standard output cannot be written: No space left on device"):
        terminal.put("a result")


def test_a_reader_that_goes_early_ends_the_command_quietly(tmp_path: Path) -> None:
    """And what lists runs starts without the heavy packages, also where nothing but ASCII can be printed."""
    write(tmp_path / "[/b] ±", results([0.5]))
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPROFILEIMPORTTIME": "1"}
    read, sent = os.pipe()
    os.close(read)
    try:
        gone = subprocess.run([*MAIN, "list", str(tmp_path)], stdout=sent, stderr=subprocess.PIPE, env=env)
    finally:
        os.close(sent)
    lines = gone.stderr.decode().splitlines()
    said = [line for line in lines if not line.startswith("import time:")]
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in lines if line.startswith("import time:")}
    assert (gone.returncode, said) == (terminal.CLOSED_PIPE, [])
    assert "fedwarm" in loaded and not loaded & {"torch", "flwr", "numpy", "matplotlib", "scipy", "jinja2"}

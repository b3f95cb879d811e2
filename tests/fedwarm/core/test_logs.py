"""Flower's log and ours: plain lines of one style, while a run is on and on both engines."""

from __future__ import annotations

import io
import json
import logging
import sys
from pathlib import Path

import flwr.app  # noqa: F401
import pytest

from fedwarm.core import logs
from fedwarm.core.terminal import say


def test_both_loggers_print_plain_lines(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    flower, own = (logging.getLogger(name) for name in logs.NAMES)
    kept = logging.FileHandler(tmp_path / "own.log")
    before = list(flower.handlers)
    own.addHandler(kept)
    try:
        with logs.one_style():
            flower.info("[INIT] \x1b[31mred\x1b[0m %s", "[/b]")
            flower.debug("too much")
            own.warning("client %d failed:\n%s", 3, "a trace")
        assert flower.handlers == before and own.handlers == [kept]
    finally:
        own.removeHandler(kept)
        kept.close()
    assert capsys.readouterr().err == "[INIT] red [/b]\nwarning: client 3 failed:\na trace\n"
    assert (tmp_path / "own.log").read_text() == "client 3 failed:\na trace\n"


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("INFO :      client 0: train 2/2", "client 0: train 2/2"),
        ("\x1b[93mWARNING \x1b[0m:   no [reply]", "warning: no [reply]"),
        ("ERROR 2026-11-26 10:00:00,123:     it failed", "error: it failed"),
        ("INFO :      \t└──> rounds: 3", "    └──> rounds: 3"),
        ("Loading project configuration... ", "Loading project configuration... "),
    ],
)
def test_lines_of_flowers_command_are_restyled(line: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    say(logs.restyled(line))
    assert capsys.readouterr().err.rstrip("\n").strip() == shown.strip()


def test_a_forked_worker_prints_past_its_parents_display(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console
    from rich.file_proxy import FileProxy

    real = io.StringIO()
    monkeypatch.setattr(sys, "stderr", FileProxy(Console(file=io.StringIO()), real))
    logs.undisplayed()
    assert sys.stderr is real


def test_lines_can_be_had_as_json_with_run_round_and_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = logging.getLogger("fedwarm")
    with logs.structured(run="7"):
        own.warning("nowhere")
    monkeypatch.setenv(logs.FILE_VARIABLE, str(tmp_path / "state" / "log.jsonl"))
    with logs.structured(run="7", node="server"):
        own.warning("\x1b[31mone\x1b[0m\ntwo %d", 3)
        logs.at(round=2)
        logging.getLogger("flwr").error("it failed")
    own.warning("after")
    first, second = [json.loads(line) for line in (tmp_path / "state" / "log.jsonl").read_text().splitlines()]
    assert first.pop("time")[:2] == "20" and first == {"level": "warning", "run": "7", "node": "server", "text": "one\ntwo 3"}
    assert (second["round"], second["level"], second["text"]) == (2, "error", "it failed")

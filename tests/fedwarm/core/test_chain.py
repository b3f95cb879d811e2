"""Audit logs: what was added holds together, and any change of it shows."""

from __future__ import annotations

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fedwarm.cli.audit import verify as verify_command
from fedwarm.core.chain import START, add, verify
from fedwarm.core.failures import RunError


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "audit.jsonl"
    add(path, {"event": "registered", "site": "hospital-ä"}, {"event": "asked", "bytes": 12})
    add(path, {"event": "revoked", "epsilon": 0.1 + 0.2})
    return path


def test_lines_hold_together(log: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["registered", "asked", "revoked"]
    assert [line["previous"] for line in lines] == [START, lines[0]["hash"], lines[1]["hash"]]
    assert verify(log) == (3, lines[2]["hash"], "") and verify(log, lines[0]["hash"]).problem == ""
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_every_byte_that_is_changed_shows(log: Path) -> None:
    raw = log.read_bytes()
    for place in range(0, len(raw), 5):
        changed = bytearray(raw)
        changed[place] ^= 1
        log.write_bytes(changed)
        assert verify(log).problem, (place, raw[place - 5 : place + 5])
    log.write_bytes(raw)
    assert not verify(log).problem


def test_lines_that_are_taken_out_moved_or_cut_off_show(log: Path) -> None:
    first, second, third = log.read_bytes().splitlines(keepends=True)
    head = verify(log).head
    for lines, said in (
        ((second, third), "line 1 does not follow"),
        ((first, third), "line 2 does not follow"),
        ((second, first, third), "line 1 does not follow"),
    ):
        log.write_bytes(b"".join(lines))
        assert verify(log).problem.startswith(said)
    log.write_bytes(first + second)
    assert verify(log).problem == "" and "was cut short, or written anew" in verify(log, head).problem


def test_what_a_killed_process_left_does_not_count(log: Path) -> None:
    with log.open("ab") as stream:
        stream.write(b'{"event": "half')
    add(log, {"event": "next"})
    assert verify(log)[0] == 4 and verify(log).problem == ""


def test_a_log_that_was_changed_stays_so_when_it_goes_on(log: Path) -> None:
    log.write_text(log.read_text().replace("revoked", "invoked"))
    add(log, {"event": "next"})
    assert verify(log).problem == "line 3 was changed after it was written"


def test_writers_wait_for_each_other(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: add(tmp_path / "log", {"n": n}), range(40)))
    assert verify(tmp_path / "log")[0] == 40


def test_the_command_says_true_or_what_is_false(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verify_command(log.parent, "")
    assert f"{log}: 3 lines hold together, head {verify(log).head}" in capsys.readouterr().out
    log.write_text(log.read_text().replace('"bytes": 12', '"bytes": 13'))
    with pytest.raises(RunError, match=r"audit.jsonl: line 2 was changed after it was written"):
        verify_command(log, "")
    with pytest.raises(RunError, match="holds no audit.jsonl"):
        verify_command(log.parent / "none", "")

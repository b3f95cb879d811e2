"""Which commands a node finds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedwarm.core.files import DiskError
from fedwarm.flower.processes import executable, own_commands
from fedwarm.node.messages import COMMAND, EXECUTOR, script, with_own_commands, with_warm_messages


def test_own_commands_come_first_only_where_they_would_not_be_found(tmp_path: Path) -> None:
    own, strange = str(Path(executable("flwr")).parent), tmp_path / EXECUTOR
    assert with_own_commands(str(tmp_path)) == os.pathsep.join([own, str(tmp_path)]), "not activated"
    before = os.pathsep.join([str(tmp_path), own])
    assert with_own_commands(before) == before, "a federation puts its own flwr-clientapp before them"
    strange.touch(0o755)
    assert with_own_commands(before) == os.pathsep.join([own, before]), "another installation's is not it"


def test_a_nodes_own_comes_before_flowers_and_behind_a_federations(tmp_path: Path) -> None:
    path = with_warm_messages(own_commands(), tmp_path / "home")
    folder, rest = path.split(os.pathsep, 1)
    written = Path(folder) / COMMAND
    assert rest == own_commands() and written.read_text() == script(tmp_path / "home" / "fedwarm" / "clients")
    assert written.stat().st_mode & 0o777 == 0o700 and Path(folder).is_relative_to(tmp_path / "home")
    assert with_warm_messages(path, tmp_path / "other") == path and not (tmp_path / "other").exists()
    assert with_warm_messages(own_commands(), tmp_path / "home") == path, "again, at the next start"
    (tmp_path / "file").touch()
    with pytest.raises(DiskError):
        with_warm_messages(own_commands(), tmp_path / "file" / "home")


@pytest.mark.skipif(sys.platform != "linux", reason="messages are forked on Linux alone")
def test_the_script_asks_for_a_fork_unless_it_is_cold(tmp_path: Path) -> None:
    told = {}
    for cold in (False, True):
        text = script(tmp_path / "a b", "mark", cold).replace(sys.executable, "printf '%s\\n'")
        told[cold] = subprocess.run(["sh", "-c", text, COMMAND, "--token", "c d"], capture_output=True, text=True, check=True)
    *options, stub, sockets, mark, entry, first, second = told[False].stdout.splitlines()
    assert (options, sockets, mark, first, second) == (["-I", "-S"], str(tmp_path / "a b"), "mark", "--token", "c d")
    assert Path(stub).name == "stub.py" and all(Path(each).is_file() for each in (stub, entry))
    assert told[True].stdout.splitlines() == ["-P", entry, "--token", "c d"]

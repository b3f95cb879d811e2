"""What `fedwarm state` prints and removes, about real folders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedwarm.cli import states
from fedwarm.core.forms import byte_text
from fedwarm.core.store import Store
from fedwarm.settings.fields import SettingError
from tests.fedwarm.cli.test_runs import Capture, aged, rows


def kept(root: Path) -> None:
    """Two runs' states as the store writes them, and folders that are none."""
    for key, partition, steps in (("00ff", 0, 2), ("00ff", 3, 1), ("abcdef0123456789", 11, 1)):
        for step in range(1, steps + 1):
            Store(root, key, partition).save("personal", {"w": torch.zeros(25_000)}, step)
    Store(root, "00ff", 0).of_all().save("fixed", {"w": torch.zeros(25_000)}, 0)
    for path in (root / "00ff").rglob("*.safetensors"):
        aged(path, 3 * 86400 + 5)
    (root / "cafe" / "0").mkdir(parents=True)
    (root / "cafe" / "0" / "thesis.tex").write_text("years of work")
    (root / "Documents").mkdir()
    (root / "beef").symlink_to(root / "00ff")


def test_states_are_listed(tmp_path: Path, capsys: Capture) -> None:
    kept(tmp_path)
    states.list_states(tmp_path)
    lines = capsys.readouterr().out
    one = (tmp_path / "abcdef0123456789" / "11" / "personal.1.safetensors").stat().st_size
    assert rows(lines)[1:4] == [
        ["run key", "partitions", "files", "size", "last written"],
        ["00ff", "2", "4", byte_text(4 * one), "3 days ago"],
        ["abcdef0123456789", "1", "1", byte_text(one), "0 seconds ago"],
    ]
    assert f"{byte_text(5 * one)} in all" in lines


def test_no_states(tmp_path: Path, capsys: Capture) -> None:
    states.list_states(tmp_path / "none")
    assert capsys.readouterr().out == f"clients keep nothing below {tmp_path / 'none'}\n"


def test_a_state_is_removed_by_its_whole_key_alone(tmp_path: Path, capsys: Capture) -> None:
    kept(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    one = byte_text((tmp_path / "abcdef0123456789" / "11" / "personal.1.safetensors").stat().st_size)
    for key in ("abcdef", "cafe", "Documents", "beef", "..", "00ff/0", ""):
        with pytest.raises(SettingError, match="give the whole key"):
            states.remove_state(tmp_path, key)
    with pytest.raises(SettingError, match=r"did you mean abcdef0123456789\?"):
        states.remove_state(tmp_path, "abcdef012345678")
    assert sorted(tmp_path.rglob("*")) == before
    states.remove_state(tmp_path, "abcdef0123456789")
    assert capsys.readouterr().out == f"removed 1 file, {one}, of run abcdef0123456789\n"
    assert [state.key for state in states.states(tmp_path)] == ["00ff"]
    assert (tmp_path / "cafe" / "0" / "thesis.tex").is_file()

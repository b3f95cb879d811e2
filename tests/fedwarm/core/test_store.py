"""What clients keep: whole files, readable by their owner only."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest
import torch

from fedwarm.core.store import LASTING_BYTES, LASTING_STEPS, Store, cache_home, make_room
from fedwarm.settings.fields import SettingError


def tensors() -> dict[str, torch.Tensor]:
    return {"w": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(3), "h": torch.ones(2, dtype=torch.bfloat16)}


def store(root: Path, key: str = "a1", partition: int = 0, limit_mb: int = 100) -> Store:
    return Store(root, key, partition, limit_mb)


def test_round_trip(tmp_path: Path) -> None:
    store(tmp_path).save("personal", tensors(), 3)
    back = store(tmp_path).load("personal")
    assert back is not None and back.keys() == tensors().keys()
    for name, tensor in tensors().items():
        assert back[name].dtype == tensor.dtype and torch.equal(back[name], tensor)


def test_nothing_saved_is_none_and_makes_no_folder(tmp_path: Path) -> None:
    assert store(tmp_path).load("personal") is None
    assert list(tmp_path.iterdir()) == []


def test_two_steps_are_kept_and_a_step_that_is_done_again_begins_at_the_one_before(tmp_path: Path) -> None:
    kept = store(tmp_path)
    for step in (1, 2, 3):
        kept.save("personal", {"w": torch.full((1,), float(step))}, step)
    assert sorted(p.name for p in kept.folder.iterdir()) == ["personal.2.safetensors", "personal.3.safetensors"]
    again = kept.load("personal", before=3)
    assert again is not None and again["w"].item() == 2
    kept.save("personal", {"w": torch.full((1,), 30.0)}, 3)
    newest = kept.load("personal")
    assert kept.steps("personal") == [2, 3] and newest is not None and newest["w"].item() == 30
    kept.save("personal", {"w": torch.zeros(1)}, 2)
    assert kept.steps("personal") == [2], "what a broken run left from later steps goes"
    assert kept.load("personal", before=2) is None


def test_only_the_owner_may_read(tmp_path: Path) -> None:
    store(tmp_path).save("personal", tensors(), 0)
    assert stat.S_IMODE(store(tmp_path).folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((store(tmp_path).folder / "personal.0.safetensors").stat().st_mode) == 0o600


def test_clients_and_runs_do_not_see_each_other(tmp_path: Path) -> None:
    store(tmp_path).save("personal", tensors(), 0)
    assert store(tmp_path, partition=1).load("personal") is None
    assert store(tmp_path, key="b2").load("personal") is None


@pytest.mark.parametrize("key", ["", "..", "../a", "a/b", "A1", "a" * 33, "run"])
def test_a_key_that_is_no_key_reaches_no_folder(tmp_path: Path, key: str) -> None:
    with pytest.raises(SettingError, match="not hexadecimal"):
        store(tmp_path, key)


def test_the_oldest_runs_make_room_and_a_run_too_large_is_refused(tmp_path: Path) -> None:
    half = {"w": torch.zeros(2**17)}
    for age, key in ((300, "a"), (200, "b")):
        store(tmp_path, key, limit_mb=1).save("personal", {"w": torch.zeros(2**16)}, 0)
        then = time.time() - age
        os.utime(tmp_path / key, (then, then))
    store(tmp_path, "c", limit_mb=1).save("personal", half, 0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "c"]
    with pytest.raises(SettingError, match="raise client-state-mb"):
        store(tmp_path, "c", 1, limit_mb=1).save("personal", {"w": torch.zeros(2**18)}, 0)
    assert store(tmp_path, "c", 1).steps("personal") == [] and store(tmp_path, "c").steps("personal") == [0]
    assert list((tmp_path / "c" / "1").iterdir()) == []


def test_views_tied_tensors_and_parameters_are_saved(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.arange(4.0).reshape(2, 2))
    store(tmp_path).save("x", {"a": weight, "b": weight, "turned": weight.T}, 0)
    back = store(tmp_path).load("x")
    assert back is not None and torch.equal(back["turned"], back["a"].T) and torch.equal(back["b"], weight)


def test_cache_home_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_home() == tmp_path / "fedwarm" / "clients"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_home() == tmp_path / "home" / ".cache" / "fedwarm" / "clients"


def test_room_is_made_by_the_oldest_that_is_not_kept(tmp_path: Path) -> None:
    for age, key in enumerate(("0a", "0b", "0c")):
        Store(tmp_path, key, 0).save("personal", {"w": torch.zeros(1000)}, 1)
        for path in (tmp_path / key, *(tmp_path / key).iterdir()):
            os.utime(path, (1000.0 + age, 1000.0 + age))
    used = sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
    assert make_room(tmp_path, tmp_path / "0a", used) == 0
    assert make_room(tmp_path, tmp_path / "0a", used - 1) > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0a", "0c"]
    assert make_room(tmp_path, tmp_path / "0a", 1) < 0 and [path.name for path in tmp_path.iterdir()] == ["0a"]


def test_making_room_leaves_accounts_and_what_was_sent(tmp_path: Path) -> None:
    kept = Store(tmp_path, "0a", 3)
    kept.save("personal", {"w": torch.zeros(1000)}, 1)
    kept.keep("sent", {"words": torch.ones(9)}, 1)
    kept.book("account", {"what": "round", "number": 1})
    Store(tmp_path, "0b", 0).save("personal", {"w": torch.zeros(10)}, 1)
    make_room(tmp_path, tmp_path / "0b", 1)
    assert Store(tmp_path, "0a", 3).booked("account") == [{"what": "round", "number": 1}]
    words = Store(tmp_path, "0a", 3).kept("sent", 1)
    assert words is not None and torch.equal(words["words"], torch.ones(9)) and kept.steps("personal") == []
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in kept.folder.iterdir())


def test_what_was_sent_is_written_once_and_later_steps_stay(tmp_path: Path) -> None:
    kept = store(tmp_path)
    for step in (1, 2, 3):
        kept.keep("sent", {"w": torch.full((1,), float(step))}, step)
    again = kept.keep("sent", {"w": torch.full((1,), 20.0)}, 2)
    assert again["w"].item() == 2, "a second draw never takes the place of the first"
    last = kept.kept("sent", 3)
    assert last is not None and last["w"].item() == 3 and kept.kept("sent", 4) is None
    for step in range(4, 4 + LASTING_STEPS):
        kept.keep("sent", {"w": torch.zeros(1)}, step)
    assert kept.kept("sent", 3) is None and kept.kept("sent", 4) is not None


def test_large_messages_may_go_but_their_account_stays(tmp_path: Path) -> None:
    kept = Store(tmp_path, "0a", 0)
    kept.keep("sent", {"w": torch.zeros(LASTING_BYTES)}, 1)
    kept.book("account", {"number": 1})
    make_room(tmp_path, tmp_path / "0b", 1)
    assert kept.kept("sent", 1) is None and kept.booked("account") == [{"number": 1}]


def test_a_line_that_a_killed_process_left_in_part_counts_for_nothing(tmp_path: Path) -> None:
    kept = store(tmp_path)
    kept.book("account", {"number": 1})
    path = kept.folder / "account.jsonl"
    with path.open("ab") as file:
        file.write(b'{"numb')
    assert kept.booked("account") == [{"number": 1}]
    kept.book("account", {"number": 2})
    assert kept.booked("account") == [{"number": 1}, {"number": 2}]
    path.write_bytes(b"{]\n")
    with pytest.raises(SettingError, match=r"account\.jsonl is damaged.*nothing more is sent"):
        kept.booked("account")


def test_the_accounts_of_all_runs_of_a_partition_are_found(tmp_path: Path) -> None:
    for number, (key, partition) in enumerate((("0a", 0), ("0b", 0), ("0b", 1))):
        store(tmp_path, key, partition).book("account", {"number": number})
    found = [entry["number"] for run in store(tmp_path, "0c").booked_of_all("account") for entry in run]
    assert found == [0, 1]

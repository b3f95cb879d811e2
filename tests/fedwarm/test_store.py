"""What clients keep: whole files, readable by their owner only."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import torch

from fedwarm.store import Store, cache_home


def tensors() -> dict[str, torch.Tensor]:
    return {"w": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(3), "h": torch.ones(2, dtype=torch.bfloat16)}


def test_round_trip(tmp_path: Path) -> None:
    store = Store(tmp_path / "run" / "0")
    store.save("personal", tensors())
    back = Store(tmp_path / "run" / "0").load("personal")
    assert back is not None and back.keys() == tensors().keys()
    for name, tensor in tensors().items():
        assert back[name].dtype == tensor.dtype and torch.equal(back[name], tensor)


def test_nothing_saved_is_none_and_makes_no_folder(tmp_path: Path) -> None:
    assert Store(tmp_path / "run").load("personal") is None
    assert list(tmp_path.iterdir()) == []


def test_saving_again_replaces_and_leaves_no_other_file(tmp_path: Path) -> None:
    store = Store(tmp_path / "0")
    store.save("personal", tensors())
    store.save("personal", {"w": torch.zeros(1)})
    store.save("teacher", {"t": torch.ones(1)})
    assert sorted(p.name for p in store.folder.iterdir()) == ["personal.safetensors", "teacher.safetensors"]
    back = store.load("personal")
    assert back is not None and list(back) == ["w"]


def test_only_the_owner_may_read(tmp_path: Path) -> None:
    store = Store(tmp_path / "0")
    store.save("personal", tensors())
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((store.folder / "personal.safetensors").stat().st_mode) == 0o600


def test_clients_do_not_see_each_other(tmp_path: Path) -> None:
    Store(tmp_path / "0").save("personal", tensors())
    assert Store(tmp_path / "1").load("personal") is None


def test_views_tied_tensors_and_parameters_are_saved(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.arange(4.0).reshape(2, 2))
    Store(tmp_path).save("x", {"a": weight, "b": weight, "turned": weight.T})
    back = Store(tmp_path).load("x")
    assert back is not None and torch.equal(back["turned"], back["a"].T) and torch.equal(back["b"], weight)


def test_cache_home_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_home() == tmp_path / "fedwarm" / "clients"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_home() == tmp_path / "home" / ".cache" / "fedwarm" / "clients"

"""Pieces of a stage: whole or not there, for their owner alone, bounded, and gone with the next checkpoint."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedwarm.diffusion import sampling, tuners
from fedwarm.record.checkpoint import FOLDER, Checkpoint, Keeper
from fedwarm.record.pieces import Pieces
from fedwarm.rounds import client as clients
from fedwarm.rounds import kept
from fedwarm.settings.fields import Value
from tests.runs import SMALL_WARMFED, run, same

WARM: dict[str, Value] = {
    **SMALL_WARMFED, "data.max-examples": 12, "data.partition": "pathological", "diffusion.sample-steps": 1, "server-threads": 1,
    "warmfed.epochs-warm": 1, "warmfed.teacher-epochs": 1, "warmfed.distill-epochs": 1, "diffusion.lora-steps": 1,
}  # fmt: skip
TOLD: dict[str, Any] = {"n": 2**60, "loss": 0.1, "name": "ä"}


def arrays() -> dict[str, Any]:
    named = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.array(3), "t": np.zeros((0, 2), np.uint8)}
    return {**named, "f": np.asfortranarray(np.arange(4.0).reshape(2, 2))}


def test_what_was_kept_is_found_in_its_order(tmp_path: Path) -> None:
    pieces = Pieces(tmp_path / "c")
    assert pieces.find(3, "reply-0") is None
    pieces.keep(3, "reply-0", arrays(), TOLD)
    found = Pieces(tmp_path / "c").find(3, "reply-0")
    assert found is not None and list(found[0]) == ["w", "a", "t", "f"] and same(found[0], arrays()) and found[1] == TOLD
    assert all(found[0][name].dtype == array.dtype for name, array in arrays().items())
    assert pieces.find(2, "reply-0") is None and pieces.find(3, "reply-1") is None
    assert [stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "c").iterdir()] == [0o600]


def test_a_damaged_piece_is_none(tmp_path: Path) -> None:
    pieces = Pieces(tmp_path)
    pieces.keep(0, "reply-0", arrays(), TOLD)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for spoilt in (whole[:-3], whole[:-1] + b"\x07", b"", whole.replace(b"0.1", b"0.2")):
        path.write_bytes(spoilt)
        assert pieces.find(0, "reply-0") is None


def test_no_more_than_the_limit_is_kept(tmp_path: Path) -> None:
    pieces = Pieces(tmp_path, limit_bytes=10_000)
    for i in range(4):
        pieces.keep(1, f"reply-{i}", {"w": np.zeros(1000, np.float32)}, {})
    assert len(list(tmp_path.iterdir())) == 2
    again = Pieces(tmp_path, limit_bytes=10_000)
    again.keep(1, "reply-9", {"w": np.zeros(1000, np.float32)}, {})
    assert again.find(1, "reply-9") is None, "what lies there already counts"


def test_a_disk_that_takes_no_piece_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    pieces = Pieces(tmp_path / "file" / "c")
    pieces.keep(1, "reply-0", arrays(), {})
    pieces.keep(1, "reply-1", arrays(), {})
    (line,) = caplog.messages
    assert "would begin it anew" in line and str(tmp_path / "file") in line and "\n" not in line


def test_the_next_checkpoint_removes_them(tmp_path: Path) -> None:
    pieces = Pieces(tmp_path / FOLDER)
    for stage in (1, 2, 3):
        pieces.keep(stage, "reply-0", arrays(), {})
    Keeper(tmp_path).save(Checkpoint(2, False, "aa", 1, 0.0, {}, {}, {}))
    assert sorted(p.name for p in (tmp_path / FOLDER).iterdir()) == [
        "checkpoint.json", "piece-2-reply-0.safetensors", "piece-3-reply-0.safetensors",
    ]  # fmt: skip


def test_batches_are_drawn_once(tmp_path: Path) -> None:
    """However much they come to: what a GPU draws in hours is not left to a limit."""
    drawn: list[int] = []

    def draw() -> torch.Tensor:
        drawn.append(1)
        return torch.full((2, 3), len(drawn), dtype=torch.uint8)

    first = [Pieces(tmp_path, limit_bytes=1).through(4, "drawn-0", {"draw": 0})(start, draw) for start in (0, 16, 0)]
    assert len(drawn) == 2 and torch.equal(first[0], first[2])
    Pieces(tmp_path).through(4, "drawn-0", {"draw": 1})(0, draw)
    assert len(drawn) == 3


class Ended(BaseException):
    """Nothing catches it."""


class Counted:
    """A function that counts its calls."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.calls = inner, 0

    def __call__(self, *args: Any, **named: Any) -> Any:
        self.calls += 1
        return self.inner(*args, **named)


def ended(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, at: int, method: str, place: Path, given: dict[str, Value]
) -> None:
    """Run a method, or go on with it, until the nth call of a function."""
    original, calls = getattr(owner, name), [0]

    def counted(*args: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == at:
            raise Ended
        return original(*args, **named)

    with monkeypatch.context() as patch, pytest.raises(Ended):
        patch.setattr(owner, name, counted)
        run(method, place, given)


def calls_to_end(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, method: str, place: Path, given: dict[str, Value]
) -> int:
    """Go on with a run to its end; the number of calls of a function."""
    counted = Counted(getattr(owner, name))
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, counted)
        run(method, place, {**given, "resume": True})
    return counted.calls


def ledger(folder: Path) -> list[dict[str, Any]]:
    return [{**json.loads(line), "seconds": 0} for line in (folder / "ledger.jsonl").read_text().splitlines()]


@pytest.mark.long
def test_finished_adapters_and_drawn_batches_are_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of four clients ends when two have an adapter, and again when the images of two are drawn; neither is made again."""
    whole, place = run("warmfed", tmp_path / "whole", WARM), tmp_path / "run"
    ended(monkeypatch, tuners, "tune_adapter", 3, "warmfed", place, WARM)
    with monkeypatch.context() as patch:
        patch.setattr(tuners, "tune_adapter", (tuned := Counted(tuners.tune_adapter)))
        ended(monkeypatch, sampling, "_batch", 3, "warmfed", place, {**WARM, "resume": True})
    assert tuned.calls == 2
    assert calls_to_end(monkeypatch, sampling, "_batch", "warmfed", place, WARM) == 2
    assert ledger(place) == ledger(whole.folder)
    assert (place / "model.safetensors").read_bytes() == (whole.folder / "model.safetensors").read_bytes()
    assert not list((place / FOLDER).glob("piece-*"))


def test_an_adapter_that_was_not_received_is_not_tuned_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run ends while a client's reply is taken: the client has its adapter still."""
    ended(monkeypatch, kept.Kept, "booked", 1, "warmfed", tmp_path / "run", WARM)
    assert len(list((tmp_path / "run" / "clients").glob("*/*/adapted.0.safetensors"))) == 1
    assert calls_to_end(monkeypatch, tuners, "tune_adapter", "warmfed", tmp_path / "run", WARM) == 3


def test_replies_of_any_stage_that_takes_long_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Value] = {"num-server-rounds": 1, "local-epochs": 1, "data.max-examples": 12, "robust.clip-norm": 0.5}
    whole = run("scaffold", tmp_path / "whole", given)
    for name, seconds, asked in (("short", kept.LONG_SECONDS, 4), ("long", 0.0, 2)):
        monkeypatch.setattr(kept, "LONG_SECONDS", seconds)
        ended(monkeypatch, clients, "fit", 3, "scaffold", tmp_path / name, given)
        assert calls_to_end(monkeypatch, clients, "fit", "scaffold", tmp_path / name, given) == asked
        assert ledger(tmp_path / name) == ledger(whole.folder)
        assert (tmp_path / name / "model.safetensors").read_bytes() == (whole.folder / "model.safetensors").read_bytes()


def test_a_failure_before_a_kept_reply_is_booked_again_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Value] = {"num-server-rounds": 1, "local-epochs": 1, "data.max-examples": 12, "faults.kind": "nan"}
    given |= {"faults.rate": 0.4, "seed": 172}
    whole = run("fedavg", tmp_path / "whole", given)
    assert any(entry["failure"] for entry in ledger(whole.folder)[:3])
    monkeypatch.setattr(kept, "LONG_SECONDS", 0.0)
    ended(monkeypatch, clients, "fit", 5, "fedavg", tmp_path / "run", given)
    assert calls_to_end(monkeypatch, clients, "fit", "fedavg", tmp_path / "run", given) < 4
    assert ledger(tmp_path / "run") == ledger(whole.folder)

"""A run's folder: what is written there, when, and how it is found again.

It holds `results.json`, `ledger.jsonl` (every exchange), `journal.jsonl` (every stage and measurement), `checkpoint/`,
`model.safetensors` and `best.safetensors`; a generative run has `adapters/`, `pictures/` and `pool/`. The two `.jsonl` files only
grow; a checkpoint knows how much of them belongs to it.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from fedwarm.core.arrays import Arrays, to_tensors
from fedwarm.core.chain import FILE, add
from fedwarm.core.files import order_metadata, replacing, settle, write_text, writing
from fedwarm.core.refusals import reason_of
from fedwarm.record.checkpoint import FOLDER, Checkpoint, Keeper, load
from fedwarm.record.document import written
from fedwarm.record.ledger import Entry, Ledger
from fedwarm.record.lock import LOCK, Lock
from fedwarm.record.pieces import Pieces
from fedwarm.record.record import Record
from fedwarm.settings.fields import SettingError, Value

WRITE_INTERVAL_SECONDS = 2.0
LEDGER, JOURNAL = "ledger.jsonl", "journal.jsonl"
ROOT_VARIABLE = "FEDWARM_RUNS"
Changed = Callable[[Checkpoint, Mapping[str, Value], Path], Mapping[str, tuple[Value, Value]]]


def runs_root() -> Path:
    """Where runs go that name no folder: `FEDWARM_RUNS` of the environment, else `runs` below the working directory."""
    return Path(os.environ.get(ROOT_VARIABLE) or "runs")


class RunFolder:
    """One run's folder; made when the first file is written."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._written = -WRITE_INTERVAL_SECONDS
        self._keeper = Keeper(self.path)
        self._booked = 0
        self.header: Mapping[str, str] = {}  # what a model's file says of itself
        self.lock = Lock(self.path)
        self.pieces = Pieces(self.path / FOLDER)

    def entries(self) -> list[Path]:
        """What it holds, but for a lock."""
        with writing(self.path):
            return [path for path in self.path.iterdir() if path.name != LOCK] if self.path.is_dir() else []

    def clear(self) -> None:
        """Remove what it holds."""
        for path in self.entries():
            with writing(path):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()

    def refuse_other(self) -> None:
        """Refuse a folder that holds another run or anything else.

        Raises:
            SettingError: it is no empty folder.
        """
        if self.path.is_file():
            raise SettingError(f"--out {self.path} is a file; name a folder")
        if self.entries():
            if (self.path / "results.json").is_file():
                raise SettingError(
                    f"--out {self.path} holds another run; name a new folder, pass --resume to continue it, "
                    "or --fresh to replace it"
                )
            raise SettingError(f"--out {self.path} is not empty and holds no run; name a new folder")
        parent = next(p for p in (self.path, *self.path.parents) if p.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise SettingError(f"--out {self.path} cannot be made, as {parent} is no folder that can be written to")

    def write(self, record: Record, *, now: bool = False) -> None:
        """Bring `results.json` up to date, at most every two seconds unless `now`."""
        if not now and time.monotonic() - self._written < WRITE_INTERVAL_SECONDS:
            return
        self._written = time.monotonic()
        text = json.dumps(written(record), indent=1 if record.complete else None) + "\n"
        write_text(self.path / "results.json", text, durable=record.complete)

    def append(self, record: Record) -> dict[str, int]:
        """Add what is new to the ledger and the journal; the lengths of both in bytes."""
        ledger = record.ledger
        lines = "".join(json.dumps(event) + "\n" for event in record.events)
        record.events.clear()
        lengths = {LEDGER: self._add(LEDGER, ledger.lines(self._booked)), JOURNAL: self._add(JOURNAL, lines)}
        if record.engine == "deployment" and (events := [_audited(each) for each in ledger.entries[self._booked :]]):
            add(self.path / FILE, *events)
        self._booked = len(ledger.entries)
        return lengths

    def leave(self, record: Record) -> None:
        """Write down what a run came to that breaks here; one that is resumed cuts it to its checkpoint."""
        self.append(record)
        self.write(record, now=True)

    def _add(self, name: str, lines: str) -> int:
        path = self.path / name
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as stream:
                stream.write(lines.encode())
            settle(path)
        return path.stat().st_size

    def keep(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint."""
        self._keeper.save(checkpoint)

    def resume(self, record: Record, changed: Changed) -> Checkpoint:
        """The checkpoint, with `record` and its ledger brought to where it stands; where the run gets longer, its end is undone.

        Args:
            record: of the run, with its settings.
            changed: which of these the run goes on with other values of, each with the old and the new one.

        Raises:
            SettingError: no checkpoint, one that cannot be used, or one of a run with other settings.
        """
        checkpoint = load(self.path)
        other = changed(checkpoint, record.config.flat(), self.path)
        texts = {name: self._cut(name, length) for name, length in checkpoint.lengths.items()}
        try:
            record.ledger = Ledger.read(texts.get(LEDGER, ""))
            record.replay([json.loads(line) for line in texts.get(JOURNAL, "").splitlines()])
        except (ValueError, KeyError, TypeError) as error:
            raise SettingError(f"the ledger or the journal in {self.path} is damaged; start over with --fresh") from error
        record.events.clear()
        record.begun -= checkpoint.seconds
        self._booked = len(record.ledger.entries)
        if other:
            checkpoint = replace(checkpoint, done=checkpoint.done - record.closing, complete=False)
            record.reopen(_told(other, max(0, record.newest())))
        return checkpoint

    def _cut(self, name: str, length: int) -> str:
        """The first `length` bytes of a file, which loses the rest: a broken run wrote it after its checkpoint."""
        path = self.path / name
        if not path.is_file() or path.stat().st_size < length:
            raise SettingError(f"{path} is shorter than its checkpoint says; the run cannot be resumed; start over with --fresh")
        with writing(path):
            os.truncate(path, length)
        return path.read_text(encoding="utf-8")

    def finish(self, record: Record, arrays: Arrays) -> None:
        """Write the global model and the complete record."""
        if arrays:
            save_tensors(self.path / "model.safetensors", arrays, self.header)
        self.write(record, now=True)

    def save_best(self, arrays: Arrays) -> None:
        """Keep the best model so far."""
        if arrays:
            save_tensors(self.path / "best.safetensors", arrays, self.header)


def _told(found: Mapping[str, tuple[Value, Value]], done: int) -> str:
    """What the record says of a run that went on with other settings."""
    changes = ", ".join(f"{key} = {new:g} (was {old:g})" for key, (old, new) in found.items())
    return f"continued after round {done} with {changes}"


def _audited(entry: Entry) -> dict[str, object]:
    """An exchange as the run's audit log tells it, which a resumed run only adds to."""
    sizes = {"bytes-down": entry.wire_bytes_down, "bytes-up": entry.wire_bytes_up}
    told = {"event": "refused" if reason_of(entry.failure) else "failed" if entry.failure else "answered", "site": entry.who}
    rest = {"epsilon": entry.epsilon, "why": entry.failure}
    return {**told, "round": entry.round, "stage": entry.stage, **sizes, **{name: each for name, each in rest.items() if each}}


def save_tensors(path: Path, arrays: Arrays, notes: Mapping[str, str] | None = None) -> None:
    """Named arrays as a safetensors file, whole or not at all."""
    from safetensors.torch import save_file

    with replacing(path, durable=True) as temporary:
        save_file(to_tensors(arrays), temporary, metadata=dict(notes or {}))
        order_metadata(temporary)

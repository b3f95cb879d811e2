"""The experiment record: what a run was, what it measured and what it cost, as `results.json` version 1 and files beside it.

A run folder holds `results.json`, `ledger.jsonl` and `model.safetensors`; a generative run has `adapters/`, `pictures/`, `pool/`.
"""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from fedwarm.arrays import Arrays, to_tensors
from fedwarm.config import Config, SettingError
from fedwarm.ledger import Ledger
from fedwarm.wire import Payload

SCHEMA = 1
ENGINE_VARIABLE = "FEDWARM_ENGINE"
WRITE_INTERVAL_SECONDS = 2.0
PACKAGES = ("fedwarm", "flwr", "torch", "diffusers", "peft", "transformers", "numpy", "ray")


@dataclass(frozen=True)
class Measure:
    """Right answers and test images per client of one round's models; None where a client did not say."""

    round: int
    tests: tuple[int | None, ...]
    right_global: tuple[int | None, ...]
    right_personal: tuple[int | None, ...]

    @classmethod
    def of(cls, number: int, clients: int, replies: Mapping[int, Payload]) -> Measure:
        """Out of the clients' replies, by partition."""

        def column(name: str) -> tuple[int | None, ...]:
            values = [replies[c].metrics.get(name) if c in replies else None for c in range(clients)]
            return tuple(None if v is None else int(v) for v in values)

        return cls(number, column("num-test"), column("correct-global"), column("correct-personal"))

    def shares(self, right: Sequence[int | None]) -> list[float | None]:
        """Accuracy per client."""
        return [None if r is None or not n else r / n for r, n in zip(right, self.tests, strict=True)]

    def pooled(self, right: Sequence[int | None]) -> float | None:
        """Accuracy over the union of the test images of the clients that answered."""
        pairs = [(r, n) for r, n in zip(right, self.tests, strict=True) if r is not None and n]
        return sum(r for r, _ in pairs) / sum(n for _, n in pairs) if pairs else None


class Record:
    """Collects a run's facts; `results` is the document."""

    def __init__(self, config: Config, ledger: Ledger) -> None:
        self.config, self.ledger = config, ledger
        self.engine = os.environ.get(ENGINE_VARIABLE, "flower")
        self.classes: tuple[str, ...] = ()
        self.counts: list[list[int]] | None = None
        self.clients = 0
        self.measures: dict[int, Measure] = {}
        self.stages: list[dict[str, Any]] = []
        self.losses: dict[int, float | None] = {}
        self.notes: list[str] = []
        self.begun = time.monotonic()
        self.complete = False

    def open(self, config: Config, classes: Sequence[str], counts: Sequence[Sequence[int] | None]) -> None:
        """The federation is known."""
        self.config, self.classes, self.clients = config, tuple(classes), len(counts)
        self.counts = [list(c) for c in counts if c is not None]
        if len(self.counts) < len(counts):
            self.counts = None

    def measure(self, measure: Measure) -> None:
        """A round's models were measured."""
        self.measures[measure.round] = measure

    def stage(self, number: int, name: str, seconds: float, losses: Sequence[float]) -> None:
        """A stage ended."""
        self.stages.append({"round": number, "name": name, "seconds": round(seconds, 3)})
        if losses:
            mean = sum(losses) / len(losses)
            self.losses[number] = mean if math.isfinite(mean) else None

    def close(self, arrays: Arrays) -> None:
        """The run is complete."""
        self.complete = True

    def accuracies(self) -> dict[int, float]:
        """Global accuracy by round."""
        pooled = {n: m.pooled(m.right_global) for n, m in sorted(self.measures.items())}
        return {n: a for n, a in pooled.items() if a is not None}

    def headline(self) -> str:
        """The newest accuracies in a few words."""
        if not self.measures:
            return ""
        newest = self.measures[max(self.measures)]
        parts = [("accuracy", newest.pooled(newest.right_global)), ("personal", newest.pooled(newest.right_personal))]
        return ", ".join(f"{name} {value:.3f}" for name, value in parts if value is not None)

    def results(self) -> dict[str, Any]:
        """The document `results.json`, schema version 1."""
        numbers = sorted({s["round"] for s in self.stages} | set(self.measures))
        rounds = [self._round(n) for n in numbers]
        flat = {k: v for k, v in self.config.flat().items() if k not in ("out", "client-folder")}
        return {
            "schema": SCHEMA,
            "method": self.config.run.method,
            "seed": self.config.run.seed,
            "engine": self.engine,
            "complete": self.complete,
            "settings": flat,
            "versions": versions(),
            "commit": commit(),
            "partition": {"clients": self.clients, "classes": list(self.classes), "counts": self.counts},
            "rounds": rounds,
            "stages": self.stages,
            "final": self._final(),
            "totals": {
                "bytes_up": sum(sum(r["bytes_up"]) for r in rounds),
                "bytes_down": sum(sum(r["bytes_down"]) for r in rounds),
                "bytes_evaluation": sum(r["bytes_evaluation"] for r in rounds),
                "seconds": round(time.monotonic() - self.begun, 3),
            },
            "privacy": None,
            "notes": self.notes,
        }

    def _round(self, number: int) -> dict[str, Any]:
        measure = self.measures.get(number)
        entry: dict[str, Any] = {
            "round": number,
            "global": {"accuracy": None, "per_client": [None] * self.clients},
            "personal": None,
            "bytes_up": self.ledger.up(number, self.clients),
            "bytes_down": self.ledger.down(number, self.clients),
            "bytes_evaluation": self.ledger.evaluation(number),
            "seconds": round(sum(s["seconds"] for s in self.stages if s["round"] == number), 3),
            "train_loss": self.losses.get(number),
            "failures": self.ledger.failures(number),
        }
        if measure is not None:
            entry["global"] = {
                "accuracy": measure.pooled(measure.right_global),
                "per_client": measure.shares(measure.right_global),
            }
            if any(r is not None for r in measure.right_personal):
                entry["personal"] = {"per_client": measure.shares(measure.right_personal)}
        return entry

    def _final(self) -> dict[str, Any]:
        if not self.measures:
            return {"global": {"accuracy": None}, "personal": None}
        last = self.measures[max(self.measures)]
        personal = [a for a in last.shares(last.right_personal) if a is not None]
        summary = {"mean": sum(personal) / len(personal), "worst": min(personal)} if personal else None
        return {"global": {"accuracy": last.pooled(last.right_global)}, "personal": summary}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@lru_cache(maxsize=1)
def commit() -> str | None:
    """The commit of the checkout that this code lies in, with `+` where it was changed; None outside a checkout."""
    here = Path(__file__).parents[2]
    if not (here / ".git").exists():
        return None
    try:
        run = ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
        calm = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
        return subprocess.run(run, capture_output=True, text=True, timeout=10, check=True, env=calm).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


class RunFolder:
    """One run's folder; made when the first file is written."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._written = -WRITE_INTERVAL_SECONDS

    def refuse_other(self) -> None:
        """Refuse a folder that holds another run or anything else.

        Raises:
            SettingError: it is no empty folder.
        """
        if self.path.is_file():
            raise SettingError(f"--out {self.path} is a file; name a folder")
        if self.path.exists() and any(self.path.iterdir()):
            if (self.path / "results.json").is_file():
                raise SettingError(f"--out {self.path} holds another run; name a new folder, or pass --fresh to replace it")
            raise SettingError(f"--out {self.path} is not empty and holds no run; name a new folder")
        parent = next(p for p in (self.path, *self.path.parents) if p.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise SettingError(f"--out {self.path} cannot be made, as {parent} is no folder that can be written to")

    def write(self, record: Record, *, now: bool = False) -> None:
        """Bring `results.json` and `ledger.jsonl` up to date, at most every two seconds unless `now`."""
        if not now and time.monotonic() - self._written < WRITE_INTERVAL_SECONDS:
            return
        self._written = time.monotonic()
        write_text(self.path / "ledger.jsonl", record.ledger.lines())
        write_text(self.path / "results.json", json.dumps(record.results(), indent=1) + "\n")

    def finish(self, record: Record, arrays: Arrays) -> None:
        """Write the global model and the complete record."""
        if arrays:
            save_tensors(self.path / "model.safetensors", arrays)
        self.write(record, now=True)


def save_tensors(path: Path, arrays: Arrays, notes: Mapping[str, str] | None = None) -> None:
    """Named arrays as a safetensors file, whole or not at all."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(to_tensors(arrays), temporary, metadata=dict(notes or {}))
    os.replace(temporary, path)

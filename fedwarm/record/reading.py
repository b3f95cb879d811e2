"""Reading a run folder as it lies: `results.json` of schema 1 and `ledger.jsonl`, checked and typed."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedwarm.record.gaps import Augment, read_augment
from fedwarm.settings.fields import SettingError
from fedwarm.settings.kinds import METHODS
from fedwarm.settings.registry import summary

SCHEMA = 1
BYTE_KEYS = ("payload_bytes_up", "wire_bytes_up", "payload_bytes_down", "wire_bytes_down")
WATCHED = {"accuracy": "global accuracy", "personal": "personal accuracy", "worst": "worst personal accuracy"}
Json = dict[str, Any]


@dataclass(frozen=True)
class Best:
    """The round whose model was kept as the best, and the value that was watched."""

    round: int
    watch: str
    value: float

    @property
    def text(self) -> str:
        return WATCHED.get(self.watch, self.watch)


@dataclass(frozen=True)
class Round:
    """What one round reached and cost; `clients` and `personal` are per client, `up` and `down` bytes per client."""

    number: int
    accuracy: float | None
    clients: list[float | None]
    personal: list[float | None]
    up: list[int]
    down: list[int]
    evaluation_bytes: int
    seconds: float
    train_loss: float | None
    failures: list[str]

    @property
    def personal_mean(self) -> float | None:
        return mean(self.personal)

    @property
    def worst_tenth(self) -> float | None:
        return worst_tenth(self.clients)

    @property
    def personal_worst_tenth(self) -> float | None:
        return worst_tenth(self.personal)


@dataclass(frozen=True)
class Run:
    """A run folder, read and checked.

    Attributes:
        bit_widths: the final model's accuracies by `w4`, `w4a4`, ...
        held: where data are the nodes' own, which classes each says it has; None of one that does not tell.
    """

    folder: Path
    method: str
    seed: int
    engine: str
    settings: dict[str, Any]
    versions: dict[str, str]
    commit: str | None
    clients: int
    classes: list[str]
    counts: list[list[int]] | None
    sites: list[str]
    rounds: list[Round]
    accuracy: float | None
    personal_mean: float | None
    personal_worst: float | None
    best: Best | None
    bit_widths: dict[str, float]
    augment: Augment | None
    up: int
    down: int
    seconds: float
    privacy: Json | None
    notes: list[str]
    stages: list[tuple[str, float]]
    ledger: list[Json]
    unread_lines: int
    complete: bool
    evaluation: Json = field(default_factory=dict)
    held: list[list[str] | None] | None = None

    @property
    def tested_on(self) -> str:
        """What accuracies are measured on, in words."""
        images, split = self.evaluation.get("images"), self.evaluation.get("split")
        some = f"the {images:,} images" if isinstance(images, int) else "the images"
        words = {
            "split": f"{some} of the data set's own split {split!r}, dealt to the clients",
            "central": f"{some} of the data set's own split {split!r}, at the server",
        }
        return words.get(str(self.evaluation.get("test")), f"{some} held out of the clients' own")

    @property
    def title(self) -> str:
        marks = [" (reference, not federated)"] * self.reference + [" (unfinished)"] * (not self.complete)
        return self.method + "".join(marks)

    @property
    def reference(self) -> bool:
        return self.method == "centralized"

    @property
    def summary(self) -> str:
        return summary(METHODS.load(self.method)) if self.method in METHODS else ""

    @property
    def up_per_client(self) -> float:
        return self.up / max(1, self.clients)

    @property
    def down_per_client(self) -> float:
        return self.down / max(1, self.clients)

    @property
    def client_mean(self) -> float | None:
        """The global model's accuracy, each client counting the same."""
        return mean(self.last("clients"))

    @property
    def worst_tenth(self) -> float | None:
        """The global model's mean accuracy on the worst tenth of the clients."""
        return worst_tenth(self.last("clients"))

    @property
    def personal_worst_tenth(self) -> float | None:
        """The mean accuracy of the worst tenth of the personal models."""
        return worst_tenth(self.last("personal"))

    @property
    def epsilon(self) -> float | None:
        """What the clients' privacy was spent down to, where it is accounted for."""
        spent = (self.privacy or {}).get("epsilon")
        return float(spent) if isinstance(spent, (int, float)) else None

    @property
    def failures(self) -> list[str]:
        return [f"round {r.number}, {failure}" for r in self.rounds for failure in r.failures]

    def called(self, client: int) -> str:
        """A client's row in tables: its number, after its site's name where it has one."""
        name = self.sites[client] if client < len(self.sites) else ""
        return f"{name} ({client})" if name else str(client)

    def last(self, kind: str) -> list[float | None]:
        """The last accuracies per client that were measured, of `clients` (the global model) or `personal`; one for each."""
        columns: list[list[float | None]] = [getattr(r, kind) for r in self.rounds]
        newest = next((column for column in reversed(columns) if any(v is not None for v in column)), [])
        return newest + [None] * (self.clients - len(newest))


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of what is known, None of nothing."""
    known = [v for v in values if v is not None]
    return statistics.fmean(known) if known else None


def worst_tenth(values: Iterable[float | None]) -> float | None:
    """The mean of the worst tenth of what is known, None of nothing."""
    known = sorted(v for v in values if v is not None)
    count = max(1, len(known) // 10)
    return sum(known[:count]) / count if known else None


def read_run(folder: Path, *, ledger: bool = True) -> Run:
    """A run folder's results and, unless it is not wanted, its ledger.

    Raises:
        SettingError: there is no `results.json`, it is unreadable, of another schema, or does not follow it.
    """
    path = folder / "results.json"
    if not path.is_file():
        raise SettingError(f"{folder} is no run folder: it holds no results.json")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingError(f"{path} cannot be read as JSON: {error}") from error
    schema = raw.get("schema") if isinstance(raw, dict) else None
    if schema != SCHEMA:
        raise SettingError(f"{path} has schema {schema!r}; this fedwarm reads schema {SCHEMA}")
    try:
        return _run(folder, raw, folder / "ledger.jsonl" if ledger else None)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SettingError(f"{path} does not follow schema {SCHEMA}: {type(error).__name__}: {error}") from error


def _run(folder: Path, raw: Json, ledger_path: Path | None) -> Run:
    final, partition = raw["final"], raw["partition"]
    personal = final.get("personal") or {}
    ledger, unread = _ledger(ledger_path) if ledger_path is not None else ([], 0)
    return Run(
        folder=folder,
        method=str(raw["method"]),
        seed=int(raw["seed"]),
        engine=str(raw["engine"]),
        settings=dict(raw["settings"]),
        versions={str(k): str(v) for k, v in raw["versions"].items()},
        commit=raw.get("commit"),
        clients=int(partition["clients"]),
        classes=[str(c) for c in partition.get("classes") or []],
        counts=[[int(n) for n in row] for row in partition["counts"]] if partition.get("counts") is not None else None,
        sites=[str(name) for name in partition.get("sites") or []],
        rounds=[_round(entry) for entry in raw["rounds"]],
        accuracy=_number((final.get("global") or {}).get("accuracy")),
        personal_mean=_number(personal.get("mean")),
        personal_worst=_number(personal.get("worst")),
        best=_best(raw.get("best")),
        bit_widths={str(name): float(share) for name, share in (final.get("bit_widths") or {}).items()},
        augment=read_augment(raw.get("augment")),
        up=int(raw["totals"]["bytes_up"]),
        down=int(raw["totals"]["bytes_down"]),
        seconds=float(raw["totals"]["seconds"]),
        privacy=dict(raw["privacy"]) if raw.get("privacy") else None,
        notes=[str(n) for n in raw.get("notes") or []],
        stages=[(str(s["name"]), float(s["seconds"])) for s in raw.get("stages") or []],
        ledger=ledger,
        unread_lines=unread,
        complete=bool(raw.get("complete", True)),
        evaluation=dict(raw.get("evaluation") or {}),
        held=None if (held := partition.get("held")) is None else [None if c is None else [str(n) for n in c] for c in held],
    )


def _round(entry: Json) -> Round:
    shared, personal = entry.get("global") or {}, entry.get("personal") or {}
    return Round(
        number=int(entry["round"]),
        accuracy=_number(shared.get("accuracy")),
        clients=[_number(v) for v in shared.get("per_client") or []],
        personal=[_number(v) for v in personal.get("per_client") or []],
        up=[int(n) for n in entry["bytes_up"]],
        down=[int(n) for n in entry["bytes_down"]],
        evaluation_bytes=int(entry.get("bytes_evaluation") or 0),
        seconds=float(entry["seconds"]),
        train_loss=_number(entry.get("train_loss")),
        failures=[str(f) for f in entry.get("failures") or []],
    )


def _best(entry: Json | None) -> Best | None:
    return Best(int(entry["round"]), str(entry["watch"]), float(entry["value"])) if entry else None


def _number(value: Any) -> float | None:
    """A finite number, or None for null and NaN."""
    return None if value is None or float(value) != float(value) else float(value)


def _ledger(path: Path) -> tuple[list[Json], int]:
    """The ledger's entries and how many lines could not be read (a run that was cut off may leave half a line)."""
    entries: list[Json] = []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    for line in lines:
        try:
            entry = json.loads(line)
            entries.append({**entry, **{key: float(entry.get(key) or 0) for key in (*BYTE_KEYS, "seconds")}})
        except (ValueError, TypeError, AttributeError):
            continue
    return entries, len(lines) - len(entries)

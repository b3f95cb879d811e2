"""Whole private runs over two neighbouring data sets: all that travels and all that the server writes and logs is the same.

One client's training images, their labels and, where that is not public, their number differ. The mechanism's randomness is
seeded, and a clip of 1e-12 leaves of an update the noise alone, so what still differs in any place is a leak.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flwr.app import Message

from fedwarm.settings.fields import Value

from .runs import Outcome, run
from .sets import write_split

LABELS = [0, 1, 2, 0, 1, 2, 0, 1]
USERS = [*["ann"] * 4, *["bob"] * 4]
TIMES = ("seconds", "run", "commit")  # of a machine; and the run's key, which is random
COMMON: dict[str, Value] = {
    "num-server-rounds": 2, "local-epochs": 1, "batch-size": 4, "data.image-size": 8, "data.test": "split",
    "data.partition": "natural", "data.partition-by": "user", "model.name": "logistic", "server-threads": 1,
    "dp-rec.entropy": "seeded", "dp-rec.clip": 1e-12, "dp-rec.sigma": 1.0, "dp-rec.bits": 2, "dp-rec.block-size": 512,
    "dp-sgd.entropy": "seeded", "dp-sgd.clip": 1e-12, "dp-sgd.noise-multiplier": 1e9,
}  # fmt: skip
PRIVATE: dict[str, dict[str, Value]] = {
    "dp_rec": {"method": "dp_rec", "dp-rec.view": "local"},
    "central": {"method": "dp_rec", "dp-rec.view": "central_certified"},
    "poisson": {"method": "dp_rec", "dp-rec.view": "central_certified", "dp-rec.mechanism": "poisson"},
    "codec": {"method": "fedavg", "codec": "dp-rec"},
    "dp-sgd": {"method": "fedavg", "privacy": "dp-sgd"},
}


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three data sets of two clients: of the others bob's training images are other ones, in other classes, and once fewer."""
    root = tmp_path_factory.mktemp("sets")
    for name, labels in (("one", LABELS), ("other", [*LABELS[:4], 1, 1, 1, 1]), ("fewer", [*LABELS[:4], 1, 1])):
        write_split(root / name / "set", "train", labels, start=0 if name == "one" else 50, user=USERS[: len(labels)])
        rest = pq.read_table(root / "one" / "set" / "train.parquet").slice(0, 4)
        table = pq.read_table(root / name / "set" / "train.parquet").slice(4)
        pq.write_table(pa.concat_tables([rest, table]), root / name / "set" / "train.parquet")
        write_split(root / name / "set", "test", LABELS, start=100, user=USERS)
    return {path.name: path / "set" for path in root.iterdir()}


def ran(folder: Path, data: Path, settings: dict[str, Value], caplog: pytest.LogCaptureFixture) -> tuple[Outcome, list[str]]:
    """A run, and every line that it logged."""
    caplog.clear()
    with caplog.at_level(logging.INFO, "fedwarm"), caplog.at_level(logging.INFO, "flwr"):
        outcome = run(str(settings["method"]), folder, {**COMMON, **settings, "data.name": str(data)}, clients=2)
    lines = [record.getMessage() for record in caplog.records if record.name in ("flwr", "fedwarm")]
    return outcome, [re.sub(r"(, )?\d+(\.\d+)? s\b( left)?", "", line).replace(str(folder), "") for line in lines]


def travelled(message: Message) -> dict[str, Any]:
    """All of a message but what is random in every run."""
    if not message.has_content():
        return {"error": message.error.reason}
    content, out = message.content, {}
    for name, record in (*content.array_records.items(), *content.metric_records.items(), *content.config_records.items()):
        for key, value in record.items():
            out[f"{name}/{key}"] = value.numpy().tobytes() if hasattr(value, "numpy") else value
    return {key: value for key, value in out.items() if key.rpartition("/")[2] not in TIMES}


def told(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """What a document says, but for times and places on the disk."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if not (key in TIMES or key.endswith("folder") or key in ("out", "data.name", "name", "key")):
                yield from told(inner, f"{place}/{key}")
    elif isinstance(value, list):
        for inner in value:
            yield from told(inner, place)
    else:
        yield place, value


def apart(one: Outcome, other: Outcome) -> set[str]:
    """The names of all that differs between two runs, in what travels and in what is on the server's disk."""
    found: set[str] = set()
    for a, b in zip([*one.messages, *one.replies], [*other.messages, *other.replies], strict=True):
        mine, theirs = travelled(a), travelled(b)
        found |= {name for name in {*mine, *theirs} if mine.get(name) != theirs.get(name)}
    for name in ("results.json", "ledger.jsonl", "journal.jsonl"):
        lines = [(each.folder / name).read_text() for each in (one, other)]
        documents = [json.loads(text) if name == "results.json" else [json.loads(x) for x in text.splitlines()] for text in lines]
        rows = [sorted(told(document), key=repr) for document in documents]
        found |= {f"{name}{place}" for place, _ in {*rows[0]} ^ {*rows[1]}}
    model = [(each.folder / "model.safetensors").read_bytes() for each in (one, other)]
    return found | ({"model.safetensors"} if model[0] != model[1] else set())


@pytest.mark.parametrize("name", PRIVATE)
def test_nothing_of_a_private_run_tells_of_training_images(
    name: str, sets: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    neighbour = sets["other" if name == "dp-sgd" else "fewer"]
    one, said = ran(tmp_path / "a", sets["one"], PRIVATE[name], caplog)
    other, said_other = ran(tmp_path / "b", neighbour, PRIVATE[name], caplog)
    assert apart(one, other) == set()
    assert said == said_other and any("rounds 2/2" in line for line in said)


def test_a_run_without_privacy_tells(sets: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The comparison can fail."""
    one, other = (ran(tmp_path / name, sets[name], {"method": "fedavg"}, caplog)[0] for name in ("one", "fewer"))
    assert {"metrics/num-examples", "metrics/train-loss", "model.safetensors"} <= apart(one, other)

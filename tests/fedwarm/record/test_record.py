"""The experiment record: `results.json` version 1 key by key, and files that are whole or not there."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fedwarm.catalogue import parse
from fedwarm.core.files import write_text
from fedwarm.core.payload import Payload
from fedwarm.record.document import written as document
from fedwarm.record.folder import RunFolder, save_tensors
from fedwarm.record.ledger import EVALUATE, Entry, Ledger
from fedwarm.record.measure import Measure
from fedwarm.record.record import Record
from fedwarm.record.versions import versions
from fedwarm.settings.fields import SettingError

CLASSES = ("zero", "one", "two")
COUNTS = [[3, 0, 1], [0, 5, 5]]


def replies(*rows: dict[str, int] | None) -> dict[int, Payload]:
    return {client: Payload(metrics=dict(row)) for client, row in enumerate(rows) if row is not None}


def filled() -> Record:
    """A run of two clients: a warm start with one download, one round, one evaluation of it."""
    ledger = Ledger()
    record = Record(parse({"method": "warmfed", "seed": 4, "out": "/tmp/x", "client-folder": "/tmp/y"}), ledger)
    record.open(record.config, CLASSES, COUNTS)
    for client, (down, up) in enumerate([(10, 100), (20, 200)]):
        ledger.add(Entry(0, "adapt", client, 0, 0, up, up + 128, 1.0))
        ledger.add(Entry(0, "distill", client, down, down + 128, 0, 0, 1.0))
        ledger.add(Entry(1, "round", client, down, down + 128, up, up + 128, 1.0))
        ledger.add(Entry(1, EVALUATE, client, down, down + 128, 0, 0, 1.0))
    ledger.add(Entry(1, "round", 1, 20, 148, 0, 0, 1.0, "w holds NaN or infinity"))
    record.stage(0, "adapt", 1.5, [])
    right = ({"num-test": 10, "correct-global": 9, "correct-personal": 10}, {"num-test": 30, "correct-global": 3})
    record.measure(Measure.of(0, 2, replies(*right)))
    record.stage(0, "distill", 0.25, [])
    record.stage(1, "round", 2.0, [0.5, 1.5])
    right = ({"num-test": 10, "correct-global": 5, "correct-personal": 8},
             {"num-test": 30, "correct-global": 25, "correct-personal": 27})  # fmt: skip
    record.measure(Measure.of(1, 2, replies(*right)))
    record.stage(1, EVALUATE, 0.5, [])
    record.close()
    return record


def test_the_documents_keys_are_the_documented_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDWARM_ENGINE", "local")
    results = document(filled())
    documented = {
        "schema",
        "method",
        "seed",
        "engine",
        "settings",
        "versions",
        "device",
        "partition",
        "rounds",
        "final",
        "totals",
        "privacy",
    }
    assert set(results) == documented | {"complete", "commit", "stages", "notes", "best", "evaluation", "trained_on"}
    assert [results[k] for k in ("schema", "method", "seed", "engine", "privacy")] == [1, "warmfed", 4, "local", None]
    assert results["partition"] == {"clients": 2, "classes": list(CLASSES), "counts": COUNTS}
    assert {"round", "global", "personal", "bytes_up", "bytes_down", "seconds"} <= set(results["rounds"][0])
    assert set(results["rounds"][0]["global"]) == {"accuracy", "per_client"}
    assert set(results["rounds"][0]["personal"]) == {"per_client"}
    assert set(results["final"]) == {"global", "personal"}
    assert {"bytes_up", "bytes_down", "seconds"} <= set(results["totals"])
    assert results["complete"] is True


def test_settings_are_all_there_but_the_folders() -> None:
    record = filled()
    flat = record.config.flat()
    assert document(record)["settings"] == {k: v for k, v in flat.items() if k not in ("out", "client-folder", "resume")}
    assert "/tmp" not in json.dumps(document(record))


def test_accuracy_is_over_the_union_of_the_test_images() -> None:
    first, second = document(filled())["rounds"]
    assert first["global"] == {"accuracy": 12 / 40, "per_client": [0.9, 0.1]}
    assert second["global"] == {"accuracy": 30 / 40, "per_client": [0.5, 25 / 30]}
    assert first["personal"] == {"per_client": [1.0, None]}
    assert second["personal"] == {"per_client": [0.8, 0.9]}


def test_final_is_the_last_round_that_was_measured() -> None:
    final = document(filled())["final"]
    assert final["global"] == {"accuracy": 0.75}
    assert final["personal"] == {"mean": pytest.approx(0.85), "worst": 0.8}


def test_bytes_are_the_ledgers_and_evaluation_stands_apart() -> None:
    results = document(filled())
    first, second = results["rounds"]
    assert (first["bytes_up"], first["bytes_down"], first["bytes_evaluation"]) == ([228, 328], [138, 148], 0)
    assert (second["bytes_up"], second["bytes_down"], second["bytes_evaluation"]) == ([228, 328], [138, 296], 286)
    totals = results["totals"]
    assert (totals["bytes_up"], totals["bytes_down"], totals["bytes_evaluation"]) == (2 * 556, 286 + 434, 286)
    assert second["failures"] == ["client 1, round: w holds NaN or infinity"] and first["failures"] == []


def test_seconds_and_losses_belong_to_their_round() -> None:
    first, second = document(filled())["rounds"]
    assert (first["seconds"], second["seconds"]) == (1.75, 2.5)
    assert (first["train_loss"], second["train_loss"]) == (None, 1.0)
    assert [s["name"] for s in document(filled())["stages"]] == ["adapt", "distill", "round", EVALUATE]


def test_a_run_that_was_not_measured() -> None:
    record = Record(parse({}), Ledger())
    record.open(record.config, CLASSES, [None, [1, 2, 3]])
    record.stage(1, "round", 1.0, [])
    results = document(record)
    assert results["partition"]["counts"] is None and results["complete"] is False
    assert results["rounds"][0]["global"] == {"accuracy": None, "per_client": [None, None]}
    assert results["rounds"][0]["personal"] is None
    assert results["final"] == {"global": {"accuracy": None}, "personal": None}
    assert record.headline() == "" and record.accuracies() == {}


def test_clients_that_did_not_answer_count_neither_way() -> None:
    measure = Measure.of(3, 3, replies({"num-test": 4, "correct-global": 1}, None, {"num-test": 6, "correct-global": 6}))
    assert measure == Measure(3, (4, None, 6), (1, None, 6), (None, None, None))
    assert measure.pooled(measure.right_global) == 0.7 and measure.shares(measure.right_global) == [0.25, None, 1.0]
    assert measure.pooled(measure.right_personal) is None


def test_headline_and_accuracies() -> None:
    record = filled()
    assert record.headline() == "accuracy 0.750, personal 0.875"
    assert record.accuracies() == {0: 0.3, 1: 0.75}


def test_what_is_said_of_privacy_is_the_newest_and_is_replayed() -> None:
    """Once a round; a resumed run has it out of the journal."""
    record = filled()
    assert document(record)["privacy"] is None and "epsilon" not in document(record)["rounds"][0]
    record.spend(0, None)
    for number, epsilon in ((0, 1.5), (0, 1.5), (1, 1.5), (2, 2.5)):
        record.spend(number, {"epsilon": epsilon, "delta": 1e-5})
    told = [event["privacy"]["round"] for event in record.events if "privacy" in event]
    assert told == [0, 1, 2]
    again = filled()
    again.replay(json.loads(json.dumps(record.events)))
    for found in (document(record), document(again)):
        assert found["privacy"] == {"epsilon": 2.5, "delta": 1e-5}
        assert [r["epsilon"] for r in found["rounds"]] == [1.5, 1.5]


def test_bits_of_a_parameter_are_those_of_a_rounds_replies() -> None:
    record = filled()
    assert document(record)["totals"]["bits_per_parameter_up"] is None
    record.upload("round", 100)
    sent = [e.payload_bytes_up for e in record.ledger.entries if e.stage == "round" and not e.failure]
    assert sent and document(record)["totals"]["bits_per_parameter_up"] == 8 * sum(sent) / len(sent) / 100


def test_versions_name_what_decides_the_numbers() -> None:
    found = versions()
    assert {"python", "torch", "flwr", "numpy", "diffusers"} <= set(found)
    assert found["torch"] == torch.__version__.split("+")[0]


def strict(text: str) -> Any:
    """JSON as its standard has it: without NaN and Infinity."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_the_folder_is_made_when_it_is_first_written(tmp_path: Path) -> None:
    folder, record = RunFolder(tmp_path / "a" / "run"), filled()
    folder.refuse_other()
    assert list(tmp_path.iterdir()) == []
    folder.append(record)
    folder.finish(record, {"w": torch.ones(2).numpy()})
    assert sorted(p.name for p in folder.path.iterdir()) == ["journal.jsonl", "ledger.jsonl", "model.safetensors", "results.json"]
    written = strict((folder.path / "results.json").read_text())
    assert written == {**document(record), "totals": {**document(record)["totals"], "seconds": written["totals"]["seconds"]}}
    assert (folder.path / "ledger.jsonl").read_text() == record.ledger.lines()
    assert load_file(folder.path / "model.safetensors")["w"].tolist() == [1, 1]


def test_a_diverged_run_still_leaves_json(tmp_path: Path) -> None:
    record = filled()
    record.stage(1, "round", 1.0, [math.nan, 1.0])
    RunFolder(tmp_path).finish(record, {})
    strict((tmp_path / "results.json").read_text())


def test_another_run_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.finish(filled(), {})
    with pytest.raises(SettingError, match=r"holds another run.*--fresh") as caught:
        RunFolder(tmp_path / "run").refuse_other()
    assert str(folder.path) in str(caught.value)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    RunFolder(tmp_path).refuse_other()
    (tmp_path / "notes.txt").write_text("mine")
    for path in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(SettingError) as caught:
            RunFolder(path).refuse_other()
        assert str(path) in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_files_replace_and_leave_no_other(tmp_path: Path) -> None:
    for text in ("one", "two"):
        write_text(tmp_path / "deep" / "x.json", text)
        save_tensors(tmp_path / "deep" / "x.safetensors", {"w": torch.ones(2).numpy()}, {"note": text})
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["x.json", "x.safetensors"]
    assert (tmp_path / "deep" / "x.json").read_text() == "two"


def test_a_write_that_is_cut_off_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    write_text(path, "old")

    def cut(source: Path, target: Path) -> None:
        raise OSError("power cut")

    monkeypatch.setattr("os.replace", cut)
    with pytest.raises(OSError, match="power cut"):
        write_text(path, "new")
    assert path.read_text() == "old"

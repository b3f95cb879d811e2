"""Runs whose clients train together on the local engine, and those that say why theirs do not."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fedwarm.clients.client_app import app
from flwr.app import Message

from fedwarm.catalogue import parse
from fedwarm.core import placement
from fedwarm.diffusion.sizes import loaded_bytes
from fedwarm.engines.local import run as local
from fedwarm.rounds import cohorts
from fedwarm.settings.fields import Value
from tests.pipelines import make_pipeline as make_pipeline
from tests.pipelines import pipeline_folder as pipeline_folder
from tests.pipelines import sentences as sentences
from tests.runs import Outcome, run, same, ticket_of

SMALL: dict[str, Value] = {
    "data.partition": "iid", "data.max-examples": 12, "batch-size": 8, "num-server-rounds": 2, "local-epochs": 1,
    "server-threads": 1, "cnn.channels": 4,
}  # fmt: skip


def test_the_engine_hears_what_each_process_loads(pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, asked = {"diffusion.foundation": str(pipeline_folder)}, list[tuple[int, ...]]()
    monkeypatch.setattr(local, "workers_for", lambda *numbers: asked.append(numbers) or 1)
    for method, more in (("warmfed", {}), ("fedavg", {}), ("warmfed", {"warmfed.adapt": False})):
        crowd = SimpleNamespace(
            app=lambda: app, node_ids=[1, 2, 3], run_config={**given, "method": method, "device": "cpu", **more}
        )
        local._runner(crowd, 0)  # type: ignore[arg-type]
    assert asked == [(3, 0, loaded_bytes(str(pipeline_folder))), (3, 0, 0), (3, 0, 0)] and asked[0][2] > 0


def small(folder: Path, method: str = "fedavg", clients: int = 5, workers: int = 1, **settings: Value) -> Outcome:
    given = {name.replace("_", "-"): value for name, value in settings.items()}
    return run(method, folder, {**SMALL, **given}, clients=clients, workers=workers)


def apart(one: Outcome, other: Outcome) -> float:
    pairs = [(one.model[name].astype(float), other.model[name].astype(float)) for name in one.model]
    return math.sqrt(sum(np.square(a - b).sum() for a, b in pairs) / sum(np.square(a).sum() for a, _ in pairs))


def test_a_run_together_is_the_run_one_after_another_and_the_same_bits_twice(tmp_path: Path) -> None:
    alone = small(tmp_path / "alone")
    first, second = (small(tmp_path / name, cohort=3) for name in ("first", "second"))
    assert apart(alone, first) < 1e-5
    assert same(first.model, second.model)
    assert [o.results["device"]["cohort"] for o in (alone, first)] == [0, 3]
    assert [o.results["settings"]["cohort"] for o in (alone, first)] == [-1, 3]
    seconds = [[e["seconds"] for e in first.ledger if e["stage"] == "round"][start:end] for start, end in ((0, 3), (3, 5))]
    assert [len(set(part)) for part in seconds] == [1, 1]  # those of a stack share its time in equal parts
    assert [e["client"] for e in first.ledger] == [e["client"] for e in alone.ledger]
    assert [e["wire_bytes_up"] for e in first.ledger] == [e["wire_bytes_up"] for e in alone.ledger]


def test_stacks_in_several_workers_give_the_same_bits(tmp_path: Path) -> None:
    """Of seven clients the first worker has four and the second three: a full stack each, and one client that is waited for."""
    one, two = (small(tmp_path / str(workers), clients=7, workers=workers, cohort=3) for workers in (1, 2))
    assert same(one.model, two.model)
    assert two.results["device"]["cohort"] == 3 and not [note for note in two.results["notes"] if "one after another" in note]
    seconds = {e["client"]: e["seconds"] for e in two.ledger if (e["stage"], e["round"]) == ("round", 1)}
    assert seconds[0] == seconds[2] == seconds[4] and seconds[1] == seconds[3] == seconds[5], "a stack's seconds are shared out"


def test_who_is_in_a_stack_does_not_change_what_becomes_of_a_client(tmp_path: Path) -> None:
    """Where one fails, the others' stacks are made up otherwise, and what they send is the same bit for bit."""
    given: dict[str, Value] = {**SMALL, "cohort": 3, "num-server-rounds": 1}
    crash: dict[str, Value] = {"faults.kind": "crash", "faults.rate": 1.0, "faults.clients": "1", "min-replies": 4}
    whole, less = (run("fedavg", tmp_path / name, {**given, **own}, clients=5) for name, own in (("all", {}), ("less", crash)))
    assert [e["client"] for e in less.ledger if e["failure"]] == [1]
    sent, kept = ({ticket_of(r): weights(r) for r in o.answered("round")} for o in (whole, less))
    assert len(sent) == 5
    assert kept == {ticket: arrays for ticket, arrays in sent.items() if ticket in kept}
    assert len(kept) == 4


def weights(reply: Message) -> dict[str, bytes]:
    return {name: array.numpy().tobytes() for name, array in reply.content.array_records["arrays"].items()}


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"method": "scaffold"}, "method = 'scaffold' does more in a round"),
        ({"privacy": "dp-sgd"}, "privacy = 'dp-sgd' makes steps of one client's examples"),
        ({"codec": "dp-rec", "limits.most-epsilon": 50.0}, "limits.most-epsilon has one message at a time at the account"),
        ({"objective": "kure"}, "takes one model at a time"),
        ({"quantization-robust.clip": 1.0}, "ClipGradient takes one model at a time"),
        ({"method": "fedprox"}, ""),
        ({"method": "local_only"}, ""),
    ],
)
def test_what_cannot_train_together_says_why(settings: dict[str, Value], why: str) -> None:
    config = parse({"method": "fedavg", "cohort": 4, **settings})
    assert why in cohorts.obstacle(config)
    assert bool(cohorts.obstacle(config)) == bool(why)
    assert cohorts.size(config, 10) == (0 if why else 4)


@pytest.mark.parametrize(("cohort", "clients", "size"), [(-1, 9, 0), (0, 9, 0), (1, 9, 0), (4, 9, 4), (4, 3, 3), (4, 1, 0)])
def test_a_stack_is_as_large_as_asked_and_no_larger_than_the_run(cohort: int, clients: int, size: int) -> None:
    """On a CPU the default is one after another."""
    assert cohorts.size(parse({"method": "fedavg", "device": "cpu", "cohort": cohort}), clients) == size


def cards(count: int) -> placement.Cards:
    return placement.Cards(lambda: count, lambda number: torch.device("cpu"))


def test_on_a_gpu_the_default_is_the_same_on_every_card() -> None:
    with placement.standing_in(cards(2)):
        assert cohorts.size(parse({"method": "fedavg"}), 100) == cohorts.USUAL == 50


def test_there_is_a_process_a_card_as_far_as_there_is_a_stack_for_each() -> None:
    with placement.standing_in(cards(3)):
        assert [cohorts.workers(parse({"method": "fedavg"}), clients) for clients in (50, 51, 400)] == [1, 2, 3]
        assert [cohorts.workers(parse({"method": "scaffold"}), clients) for clients in (100, 2)] == [3, 2]
        assert cohorts.workers(parse({"method": "scaffold", "device": "cpu"}), 100) == 0
        assert cohorts.workers(parse({"method": "fedavg", "cohort": 0}), 100) == 3


def test_a_run_says_once_that_its_clients_train_one_after_another(tmp_path: Path) -> None:
    found = small(tmp_path / "scaffold", "scaffold", clients=2, cohort=2)
    told = [note for note in found.results["notes"] if "one after another" in note]
    assert len(told) == 1
    assert told[0].startswith("clients train one after another (cohort = 2): method = 'scaffold' does more in a round")
    assert found.results["device"]["cohort"] == 0

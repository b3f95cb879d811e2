"""Every fault of the injector over 20 rounds: the run ends, the ledger counts exactly what was injected, and the model is that
of a run which asked the other clients only. Poison is not refused: robust rules stand it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedwarm.catalogue import parse
from fedwarm.faults import Faults, strikes
from fedwarm.launch.preflight import check_run
from fedwarm.methods import Method
from fedwarm.rounds.fleet import FederationError
from fedwarm.rounds.server import Stage
from fedwarm.settings.fields import SettingError, Value
from fedwarm.settings.kinds import FAULTS
from strategies.fedavg import FedAvg
from tests.runs import Outcome, run, same

ROUNDS, CLIENTS, SEED = 10, 4, 1
FAST: dict[str, Value] = {
    "seed": SEED,
    "num-server-rounds": ROUNDS,
    "local-epochs": 1,
    "data.max-examples": 8,
    "min-replies": 1,
    "stage-timeout": 30.0,
    "data.image-size": 8,
}
REFUSED = [kind for kind in FAULTS if kind not in ("none", "poison")]
REASONS = {
    "crash": "injected fault: crash", "delay": "no reply within", "nan": "NaN or infinity", "infinity": "NaN or infinity",
    "wrong_shape": "expected float32", "missing_key": "differ in their names", "extra_key": "differ in their names",
    "wrong_dtype": "is float64", "huge_update": "robust.limit", "oversized": "is the most that fits",
    "replay": "it answers message", "truncated": "cannot be read",
}  # fmt: skip


class Spared(FedAvg):
    """FedAvg that asks in each round only those clients whom the injector would not strike."""

    def plan(self) -> Iterator[Stage]:
        for index, stage in enumerate(super().plan()):
            if stage.name == "round":
                left = tuple(c for c in stage.clients if not strikes(INJECTED[-1], SEED, f"{index}.0.{c}"))
                assert left, "another seed, please: all clients of a round are struck"
                stage = Stage(stage.round, stage.name, stage.message_type, left)
            yield stage


INJECTED: list[Faults] = []
SPARED = Method("Spared", "FedAvg without those who would be struck.", server=f"{__name__}:Spared")


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The fault-free run with as many replies, by rate."""
    found: dict[float, Outcome] = {}

    def get(rate: float) -> Outcome:
        if rate not in found:
            folder = tmp_path_factory.mktemp("others") / "run"
            INJECTED.append(Faults(kind="crash", rate=rate))
            found[rate] = run(f"{__name__}:SPARED", folder, FAST)
        return found[rate]

    return get


class Clock:
    """A clock that moves while somebody sleeps, and else stands still, however long a busy machine takes."""

    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def monotonic(self) -> float:
        return self.now

    time = staticmethod(time.time)


def spoilt(kind: str, rate: float, folder: Path) -> Outcome:
    slow = {"stage-timeout": 0.6, "faults.delay-seconds": 0.65} if kind == "delay" else {}
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock()
        patch.setattr("fedwarm.faults.delay.time", clock)
        patch.setattr("fedwarm.engines.local.desk.time", clock)
        return run("fedavg", folder, {**FAST, **slow, "faults.kind": kind, "faults.rate": rate})


@pytest.mark.parametrize(("kind", "rate"), [*((kind, 0.3) for kind in REFUSED), ("crash", 0.1)])
def test_what_is_struck_is_left_out_and_counted(kind: str, rate: float, others: Any, tmp_path: Path) -> None:
    outcome, faults = spoilt(kind, rate, tmp_path / "run"), Faults(kind=kind, rate=rate)
    entries = [e for e in outcome.ledger if e["stage"] == "round"]
    assert len(entries) == ROUNDS * CLIENTS and outcome.results["complete"]
    for entry in entries:
        assert bool(entry["failure"]) == strikes(faults, SEED, entry["ticket"]), entry
        assert not entry["failure"] or REASONS[kind] in entry["failure"], entry
    assert not any(e["failure"] for e in outcome.ledger if e["stage"] != "round")
    assert 0 < sum(bool(e["failure"]) for e in entries) < rate * 2 * len(entries)
    assert same(outcome.model, others(rate).model)
    assert outcome.results["final"] == others(rate).results["final"]


@pytest.mark.parametrize("kind", ["none", "nan"])
def test_without_a_rate_nothing_is_touched(kind: str, others: Any, tmp_path: Path) -> None:
    outcome = run("fedavg", tmp_path / "run", {**FAST, "faults.kind": kind, "faults.rate": 0.0})
    assert not any(e["failure"] for e in outcome.ledger)
    assert same(outcome.model, others(0.0).model)


@pytest.mark.long
@pytest.mark.processes
def test_with_workers_a_late_client_holds_up_nobody_else(others: Any, tmp_path: Path) -> None:
    settings = {**FAST, "num-server-rounds": 2, "stage-timeout": 12.0, "faults.delay-seconds": 13.0, "faults.clients": "1"}
    late = run("fedavg", tmp_path / "late", {**settings, "faults.kind": "delay", "faults.rate": 1.0}, workers=4)
    gone = run("fedavg", tmp_path / "gone", {**settings, "faults.kind": "crash", "faults.rate": 1.0})
    assert [e["client"] for e in late.ledger if e["failure"]] == [1, 1]
    assert same(late.model, gone.model)


def test_too_few_replies_stop_the_run_and_its_checkpoint_goes_on(tmp_path: Path) -> None:
    """All clients wanted, one always fails: asked twice, the run stops with the reason; mended, it goes on from there."""
    settings = {**FAST, "num-server-rounds": 2, "faults.kind": "nan", "faults.clients": "2", "min-replies": 0}
    whole = run("fedavg", tmp_path / "whole", {**settings, "faults.rate": 0.0})
    with pytest.raises(FederationError, match=r"round 1, round: 3 valid replies of 4, 4 are needed \(min-replies\): .*NaN"):
        run("fedavg", tmp_path / "run", {**settings, "faults.rate": 1.0})
    assert not (tmp_path / "run" / "model.safetensors").exists()
    from fedwarm.record import checkpoint

    kept = checkpoint.load(tmp_path / "run")
    assert kept.done == 0 and not kept.complete
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedwarm.rounds.faulty.strikes", lambda *given: False)
        again = run("fedavg", tmp_path / "run", {**settings, "faults.rate": 1.0, "resume": True})
    assert same(again.model, whole.model)


def test_a_second_try_keeps_the_order_of_the_sum(tmp_path: Path) -> None:
    """Client 0 fails once and is asked again in its place: the model is the one of a run without a failure, bit for bit."""
    settings = {**FAST, "num-server-rounds": 1, "min-replies": 0}
    whole = run("fedavg", tmp_path / "whole", settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedwarm.rounds.faulty.strikes", lambda faults, seed, ticket: ticket == "0.0.0")
        again = run("fedavg", tmp_path / "run", {**settings, "faults.kind": "crash", "faults.rate": 1.0})
    assert [(e["ticket"], bool(e["failure"])) for e in again.ledger][:3] == [("0.0.0", True), ("0.1.0", False), ("0.0.1", False)]
    assert same(again.model, whole.model)


@pytest.mark.parametrize(
    "method", ["fedprox", "centralized", "dp_rec", "local_only", pytest.param("warmfed", marks=pytest.mark.long)]
)
def test_every_method_counts_its_faults(method: str, tmp_path: Path) -> None:
    from tests.runs import SMALL_WARMFED

    settings: dict[str, Value] = {**(SMALL_WARMFED if method == "warmfed" else FAST), "num-server-rounds": 3, "min-replies": 0}
    kind = "crash" if method == "local_only" else "truncated"
    faults = {"faults.kind": kind, "faults.rate": 0.3, "seed": 7}
    parse({**settings, **faults})
    try:
        outcome = run(method, tmp_path / "run", {**settings, **faults})
        entries = outcome.ledger
    except FederationError:
        pytest.fail("a client was struck twice; another seed, please")
    trained = [e for e in entries if e["stage"] in ("round", "adapt")]
    assert any(e["failure"] for e in trained)
    for entry in trained:
        assert bool(entry["failure"]) == strikes(Faults(kind=kind, rate=0.3), 7, entry["ticket"])


ROBUST = {
    "median": {"robust.rule": "median"},
    "trimmed mean": {"robust.rule": "trimmed_mean", "robust.trim": 0.2},
    "krum": {"robust.rule": "krum", "robust.byzantine": 1, "robust.keep": 3},
}


@pytest.mark.long
def test_robust_rules_stand_a_poisoning_client(tmp_path: Path) -> None:
    """One of six clients turns its update round and enlarges it: the mean falls behind, robust rules stay near the honest run."""
    usual: dict[str, Value] = {
        "num-server-rounds": 10, "local-epochs": 3, "data.partition": "iid", "data.max-examples": 100, "data.image-size": 8,
        "learning-rate": 0.1, "server-threads": 1,
    }  # fmt: skip
    poison = {"faults.kind": "poison", "faults.rate": 1.0, "faults.clients": "2", "faults.poison-scale": 3.0}

    def accuracy(name: str, **settings: Value) -> float:
        found = run("fedavg", tmp_path / name, {**usual, **settings}, clients=6).results["final"]["global"]["accuracy"]
        return float(found)

    honest, mean = accuracy("honest"), accuracy("mean", **poison)
    found = {name: accuracy(name, **poison, **rule) for name, rule in ROBUST.items()}
    assert mean < honest - 0.15, (honest, mean)
    assert all(value > honest - 0.08 for value in found.values()), (honest, found)


@pytest.mark.parametrize("method", ["fedavg", "scaffold"])
def test_a_rule_that_needs_more_replies_than_are_valid_asks_again_and_ends_in_a_line(method: str, tmp_path: Path) -> None:
    """Whatever `min-replies` allows: Krum needs five, and two of six clients always fail."""
    settings: dict[str, Value] = {**FAST, "num-server-rounds": 1, "robust.rule": "krum", "robust.byzantine": 1, "min-replies": 1}
    with pytest.raises(FederationError, match=r"4 valid replies of 6, 5 are needed \(robust\.rule\): client 0, .*; client 1, "):
        run(method, tmp_path / "run", {**settings, "faults.kind": "nan", "faults.rate": 1.0, "faults.clients": "0,1"}, clients=6)
    with pytest.raises(SettingError, match="has one update alone"):
        check_run({"method": "centralized", "robust.rule": "krum"}, 6)

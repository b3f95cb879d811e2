"""What each method does where some of its clients are away at a stage: it goes on with those that are there."""

from __future__ import annotations

import json
import logging
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.superlink.grid import HttpGrid, InMemoryGrid

from fedwarm.catalogue import parse
from fedwarm.core.nodes import Patience
from fedwarm.core.seeds import numpy_generator
from fedwarm.core.version import VERSION
from fedwarm.engines.local.desk import identify
from fedwarm.engines.local.run import LocalGrid
from fedwarm.record.checkpoint import load
from fedwarm.report.page import make_report
from fedwarm.rounds.attendance import on_real_nodes
from fedwarm.rounds.fleet import FederationError, Fleet, Member
from fedwarm.settings.fields import Value
from strategies import server_app, strategy_class
from tests.machines import Machines, Sent, world
from tests.runs import SMALL_WARMFED, action_of, run, same

FAST: dict[str, Value] = {
    "num-server-rounds": 2, "local-epochs": 1, "data.max-examples": 16, "data.image-size": 16, "model.name": "logistic",
    "server-threads": 1, "nodes.gather-timeout": 30.0,
}  # fmt: skip


def test_real_nodes_are_told_from_simulated_ones() -> None:
    assert on_real_nodes(HttpGrid(token="t")) and on_real_nodes(Machines(1))
    assert not on_real_nodes(InMemoryGrid.__new__(InMemoryGrid)) and not on_real_nodes(LocalGrid.__new__(LocalGrid))


@pytest.mark.parametrize(
    ("real", "settings", "wanted", "seconds"),
    [
        (False, {}, (1, 4, 5), (43200.0, 43200.0)),
        (True, {}, (1, 2, 3), (900.0, 7200.0)),
        (True, {"min-replies": 9, "stage-timeout": 60.0}, (1, 4, 5), (60.0, 60.0)),
        (False, {"min-replies": 3, "stage-timeout": 60.0}, (1, 3, 3), (60.0, 60.0)),
    ],
)
def test_how_many_replies_are_needed_and_how_long_they_may_take(
    real: bool, settings: dict[str, Value], wanted: tuple[int, ...], seconds: tuple[float, float]
) -> None:
    patience = Patience.of(parse(settings).run, real)
    assert tuple(patience.wanted(n) for n in (1, 4, 5)) == wanted
    assert (patience.seconds("round"), patience.seconds("adapt")) == seconds


def test_the_cohort_is_drawn_from_those_who_are_there_and_is_the_usual_one_where_all_are() -> None:
    strategy = strategy_class("fedavg")(parse({"fraction-train": 0.5, "seed": 3}))
    members = tuple(Member(i, i + 7, 1, 1, (), None) for i in range(8))
    strategy.fleet = Fleet(members, ("a",), 8)
    usual = [strategy.sampled(n) for n in range(1, 6)]
    drawn = [np.sort(numpy_generator(3, "cohort", n).choice(8, 4, replace=False)) for n in range(1, 6)]
    assert usual == [tuple(cohort.tolist()) for cohort in drawn]
    away = tuple(Member(i, i + 7, 1, 1, (), None, here=i not in (0, 5)) for i in range(8))
    strategy.fleet = Fleet(away, ("a",), 8, steady=False)
    fewer = [strategy.sampled(n) for n in range(1, 6)]
    assert all(len(c) == 3 and not {0, 5} & {*c} and [*c] == sorted(c) for c in fewer) and len({*fewer}) > 1
    assert strategy.sends() == {"round": 5}, "who comes and goes may be drawn in each round"


@pytest.mark.parametrize("method", ["scaffold", "local_only", "fedprox", "quantization_robust"])
def test_methods_go_on_with_those_who_are_there(method: str, tmp_path: Path) -> None:
    settings = {**FAST, **({"quantization-robust.variant": "kure"} if method == "quantization_robust" else {})}
    with world(3, on=(0, 2)) as machines:
        machines.when(1, "evaluate", lambda: machines.start(1))
        outcome = machines.federate(method, tmp_path / "run", settings)
    assert outcome.results["complete"] and outcome.results["notes"] == ["the run began without client 1"]
    asked = {number: {e["client"] for e in outcome.ledger if e["round"] == number} for number in (1, 2)}
    assert asked == {1: {0, 2}, 2: {0, 1, 2}} and not any(e["failure"] for e in outcome.ledger)
    kept = load(outcome.folder)
    assert kept.clients == 3 and [m["partition"] for m in kept.facts["members"]] == [0, 1, 2]


def test_central_sums_go_on_where_a_cohort_is_away(tmp_path: Path) -> None:
    """The cohort is drawn in secret of all; messages of nobody stand for those who are away."""
    settings: dict[str, Value] = {
        **FAST, "num-server-rounds": 4, "dp-rec.view": "central_certified", "fraction-train": 0.4, "dp-rec.entropy": "seeded",
        "dp-rec.bits": 3,
    }  # fmt: skip
    with world(3, on=(0,)) as machines:
        outcome = machines.federate("dp_rec", tmp_path / "run", {**settings, "nodes.least": 1})
    trained = [e for e in outcome.ledger if e["stage"] == "round"]
    assert outcome.results["complete"] and {e["client"] for e in trained} > {0}
    assert all((e["failure"] == "it is not here") == (e["client"] != 0) for e in trained)
    assert any(all(e["failure"] for e in trained if e["round"] == n) for n in {e["round"] for e in trained})


def test_the_pooled_reference_needs_its_one_client(tmp_path: Path) -> None:
    with world(2, on=(1,)) as machines, pytest.raises(
        FederationError, match=r"round 1, round: 0 valid replies of 1, 1 are needed .*client 0, round: it is not here"
    ):  # fmt: skip
        machines.federate("centralized", tmp_path / "run", FAST)


def test_who_was_away_when_gaps_were_filled_is_only_measured(tmp_path: Path) -> None:
    settings: dict[str, Value] = {
        **FAST, "num-server-rounds": 3, "data.partition": "dirichlet", "gen-fedsd.provider": "transforms",
        "gen-fedsd.rule": "global",
    }  # fmt: skip
    with world(3, on=(0, 2)) as machines:
        machines.when(1, "train", lambda: machines.start(1))
        outcome = machines.federate("gen_fedsd", tmp_path / "run", settings)
    assert outcome.results["notes"][:2] == [
        "the run began without client 1", "client 1 was away when images were drawn: it is measured, and does not train"
    ]  # fmt: skip
    stages = {e["stage"] for e in outcome.ledger if e["client"] == 1}
    assert stages == {"evaluate"} and not any(e["failure"] for e in outcome.ledger)
    assert load(outcome.folder).facts["augment"]["filled"] == [0, 2]


def test_an_answer_that_a_resumed_run_has_counts_where_its_client_is_away(tmp_path: Path) -> None:
    settings: dict[str, Value] = {**FAST, "num-server-rounds": 1, "gen-fedsd.provider": "transforms"}

    def interrupted(sent: Sent, reply: Message) -> Message:
        if action_of(sent.message) == "augment" and sent.node is machines.node(2):
            raise KeyboardInterrupt
        return reply

    with world(3) as machines:
        machines.spoil = interrupted
        with pytest.raises(KeyboardInterrupt):
            machines.federate("gen_fedsd", tmp_path / "run", settings)
    with world(3, on=(1, 2)) as machines:
        outcome = machines.federate("gen_fedsd", tmp_path / "run", {**settings, "resume": True})
        asked = {s.node.partition for s in machines.sent.values() if s.node and action_of(s.message) == "augment"}
    assert load(outcome.folder).facts["augment"]["filled"] == [0, 1, 2] and asked == {2}
    assert [e["client"] for e in outcome.ledger if e["stage"] == "augment"] == [0, 1, 2]


def test_adapters_of_those_who_left_are_drawn_from_and_who_comes_late_distils(tmp_path: Path) -> None:
    """Client 0 sends its adapter and is gone; client 1 comes when adapters are being tuned. The pool is that of the adapters."""
    settings: dict[str, Value] = {
        **SMALL_WARMFED, "data.max-examples": 8, "diffusion.lora-steps": 1, "diffusion.sample-steps": 1,
        "warmfed.min-per-class": 1, "warmfed.synthetic-ratio": 0.1, "server-threads": 1, "nodes.gather-timeout": 30.0,
    }  # fmt: skip
    with world(2, on=(0,)) as machines:
        machines.when(0, "adapt", lambda: machines.at(machines.time + 4, lambda: machines.start(1)))
        machines.when(0, "distill", lambda: machines.kill(0))
        outcome = machines.federate("warmfed", tmp_path / "run", settings)
    assert outcome.results["complete"] and outcome.results["rounds"][-1]["measured"] == 1
    assert {p.name for p in (outcome.folder / "adapters").iterdir()} == {"client-0"}
    assert {e["client"]: e["stage"] for e in outcome.ledger if not e["failure"]} == {0: "adapt", 1: "distill"}
    assert set(load(outcome.folder).parts["pool"]["clients"].tolist()) == {0}


# Where it lands


@pytest.mark.parametrize("root", ["", "given"])
def test_a_run_on_real_nodes_says_where_it_is_recorded(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEDWARM_RUNS", raising=False)
    if root:
        monkeypatch.setenv("FEDWARM_RUNS", str(tmp_path / root))
    flat: dict[str, Value] = {"method": "fedavg", **FAST, "num-server-rounds": 1, "client-folder": str(tmp_path / "clients")}
    logger = logging.getLogger("flwr")
    monkeypatch.setattr(logger, "propagate", True)
    with world(1) as machines, caplog.at_level(logging.INFO, logger="flwr"):
        machines.flat = flat
        identify(1, 1)
        server_app.app(machines, Context(77, 1, {}, RecordDict(), dict(flat)))
    place = tmp_path / (root or "runs") / "fedavg-77"
    assert (place / "results.json").is_file()
    assert f"the run is recorded on this machine, in {place}" in caplog.text


def test_a_site_s_name_stands_in_the_page(tmp_path: Path) -> None:
    with world(2) as machines:
        machines.node_config[1] = {"site": "site-b"}
        outcome = machines.federate("fedavg", tmp_path / "run", {**FAST, "num-server-rounds": 1})
    page = make_report([outcome.folder]).read_text()
    assert page.count('<th scope="row">site-b (1)</th>') == 2 and '<th scope="row">0</th>' in page


def test_the_description_tells_a_site_s_name_only_where_it_has_one() -> None:
    from clients.client_app import site_of

    told = {"fedwarm": VERSION, "flwr": version("flwr"), "packs": 2}
    assert site_of({"site": "a", "name": "b"}, "describe") == {"site": "a", **told}
    assert site_of({"name": "b"}, "describe") == {"site": "b", **told}
    assert site_of({"site": "a"}, "round") == {} and site_of({}, "describe") == {}


def test_a_checkpoint_of_before_there_were_such_settings_is_gone_on_with(tmp_path: Path) -> None:
    settings: dict[str, Value] = {"num-server-rounds": 1, "local-epochs": 1, "data.max-examples": 8, "model.name": "logistic"}
    before = run("fedavg", tmp_path / "run", settings, clients=2)
    index = tmp_path / "run" / "checkpoint" / "checkpoint.json"
    document = json.loads(index.read_text())
    document["settings"] = {k: v for k, v in document["settings"].items() if not k.startswith("nodes.")}
    document["settings"]["stage-timeout"] = 43200.0
    index.write_text(json.dumps(document))
    assert "members" not in document["facts"]
    model = before.model
    assert same(run("fedavg", tmp_path / "run", {**settings, "resume": True}, clients=2).model, model)

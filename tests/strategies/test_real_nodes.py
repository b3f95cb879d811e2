"""Runs on real nodes that are switched off, hang, come back and lie: they go on, say so, and keep their numbers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message
from flwr.common.constant import SUPERLINK_NODE_ID

from fedwarm.core.payload import Payload
from fedwarm.flower.wire import from_records, to_records
from fedwarm.methods import Method
from fedwarm.record import checkpoint
from fedwarm.record.reading import read_run
from fedwarm.rounds.client import BaseClient
from fedwarm.rounds.fleet import FederationError
from fedwarm.rounds.server import Stage
from fedwarm.settings.fields import SettingError, Value
from strategies.fedavg import FedAvg
from tests.machines import NOTICED_SECONDS, Sent, world
from tests.runs import Outcome, run, same

FAST: dict[str, Value] = {
    "num-server-rounds": 3, "local-epochs": 1, "data.max-examples": 16, "model.name": "logistic", "server-threads": 1,
}  # fmt: skip
CLIENTS = 3


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The same run on the local engine."""
    return run("fedavg", tmp_path_factory.mktemp("whole") / "run", FAST, clients=CLIENTS)


def without(lost: dict[tuple[int, str], int], folder: Path, **more: Value) -> Outcome:
    """The local run that asks only the other clients in these rounds."""
    LOST.clear()
    LOST.update(lost)
    return run(f"{__name__}:WITHOUT", folder, {**FAST, **more}, clients=CLIENTS)


class Without(FedAvg):
    """Asks in each round all but who is `LOST` in it."""

    def plan(self) -> Iterator[Stage]:
        for stage in super().plan():
            left = tuple(c for c in stage.clients if LOST.get((stage.round, stage.name)) != c)
            yield Stage(stage.round, stage.name, stage.message_type, left, stage.measures)


LOST: dict[tuple[int, str], int] = {}
WITHOUT = Method("Without", "FedAvg that leaves clients out.", server=f"{__name__}:Without")


def alike(outcome: Outcome, other: Outcome) -> bool:
    """The same model and measurements."""
    return same(outcome.model, other.model) and bool(outcome.results["final"] == other.results["final"])


def failures(outcome: Outcome) -> list[str]:
    return [line for entry in outcome.results["rounds"] for line in entry["failures"]]


def test_all_there_is_the_local_run(whole: Outcome, tmp_path: Path) -> None:
    with world(CLIENTS) as machines:
        outcome = machines.federate("fedavg", tmp_path / "run", FAST)
    assert alike(outcome, whole) and not failures(outcome) and not outcome.results["notes"]
    ledgers = [[{**e, "seconds": 0} for e in each.ledger] for each in (outcome, whole)]
    assert ledgers[0] == ledgers[1]
    assert all("measured" not in entry for entry in outcome.results["rounds"])


@pytest.mark.parametrize("keys", [False, True], ids=["another id", "the same id"])
@pytest.mark.parametrize("stage", ["train", "evaluate"])
def test_a_node_that_is_killed_and_started_again_is_asked_again(stage: str, keys: bool, whole: Outcome, tmp_path: Path) -> None:
    """Flower notices after a minute and says that the node is unavailable; the model is that of the unbroken run."""
    with world(CLIENTS, keys=keys) as machines:

        def accident() -> None:
            machines.kill(1)
            machines.at(machines.time + (NOTICED_SECONDS + 3 if keys else 5), lambda: machines.start(1))

        machines.when(2, stage, accident)
        outcome = machines.federate("fedavg", tmp_path / "run", FAST)
    assert alike(outcome, whole)
    assert [line.split(":")[0] for line in failures(outcome)] == [f"client 1, {'round' if stage == 'train' else stage}"]
    tickets = [e["ticket"] for e in outcome.ledger if e["client"] == 1 and e["round"] == 2]
    assert [ticket.split(".")[1] for ticket in tickets] == (["0", "1", "0"] if stage == "train" else ["0", "0", "1"])


def test_a_node_that_was_away_unnoticed_lost_its_message_and_is_asked_again(whole: Outcome, tmp_path: Path) -> None:
    """With keys, a node may be back before anybody asked whether it is there; what it had taken in is gone."""
    with world(CLIENTS, keys=True) as machines:

        def accident() -> None:
            machines.at(machines.time + 1, lambda: machines.kill(1))
            machines.at(machines.time + 2, lambda: machines.start(1))

        machines.when(2, "train", accident)
        outcome = machines.federate("fedavg", tmp_path / "run", FAST)
        assert machines.time < 200
    assert alike(outcome, whole)
    assert ["was away since it was asked" in line for line in failures(outcome)] == [True]


def test_a_node_that_took_its_question_with_it_is_asked_again_who_it_is(whole: Outcome, tmp_path: Path) -> None:
    with world(CLIENTS, keys=True) as machines:
        machines.at(1, lambda: machines.kill(1))
        machines.at(2, lambda: machines.start(1))
        outcome = machines.federate("fedavg", tmp_path / "run", FAST)
        assert machines.time < 200
    assert alike(outcome, whole) and not failures(outcome) and not outcome.results["notes"]


def test_a_node_that_stays_away_is_left_out_and_named(tmp_path: Path) -> None:
    gone = {(number, name): 1 for number in (2, 3) for name in ("round", "evaluate")}
    with world(CLIENTS) as machines:
        machines.when(2, "train", lambda: machines.kill(1))
        outcome = machines.federate("fedavg", tmp_path / "run", FAST)
        assert machines.time < 600, "a lost node is waited for once"
    assert alike(outcome, without(gone, tmp_path / "others"))
    assert len(failures(outcome)) == 1 and failures(outcome)[0].startswith("client 1, round: ")
    assert [entry.get("measured") for entry in outcome.results["rounds"]] == [None, 2, 2]
    assert "client 1 is away" in machines.lines


def test_a_node_that_hangs_is_left_out_at_the_deadline_and_asked_when_it_is_back(tmp_path: Path) -> None:
    hung = {(2, name): 1 for name in ("round", "evaluate")}
    with world(CLIENTS) as machines:
        node = machines.node(1)
        machines.when(2, "train", lambda: setattr(node, "hung", True))
        machines.when(2, "evaluate", lambda: machines.at(machines.time + 1, lambda: setattr(node, "hung", False)))
        outcome = machines.federate("fedavg", tmp_path / "run", FAST)
    assert alike(outcome, without(hung, tmp_path / "others"))
    assert failures(outcome) == ["client 1, round: no reply within 900 s"]
    said = [line for line in machines.lines if line.startswith("round 2")]
    whom = "waiting for client 1 and 1 whose turn comes after it"
    assert len(said) == 29 and said[0] == f"round 2, round: {whom} since 38 s, 862 s are left"


def test_who_is_off_at_the_start_is_waited_for_and_joins_later(tmp_path: Path) -> None:
    early = {(number, name): 1 for number in (1, 2) for name in ("round", "evaluate")}
    with world(CLIENTS, on=(0, 2)) as machines:
        machines.when(2, "train", lambda: machines.start(1))
        outcome = machines.federate("fedavg", tmp_path / "run", {**FAST, "nodes.gather-timeout": 100.0})
    assert alike(outcome, without(early, tmp_path / "others"))
    assert [line for line in machines.lines if line.startswith("waiting")] == [
        f"waiting for client 1 since {seconds} s, {100 - seconds} s are left" for seconds in (30, 60, 90)
    ]
    assert outcome.results["notes"] == ["the run began without client 1"]
    assert "client 1 is here" in machines.lines
    assert outcome.results["partition"]["clients"] == 3 and len(outcome.results["partition"]["counts"]) == 3
    assert not failures(outcome)


def test_too_few_at_the_start_end_the_run_with_their_names(tmp_path: Path) -> None:
    with world(CLIENTS, on=[2]) as machines, pytest.raises(
        FederationError, match=r"1 of 3 clients are here, without client 0, client 1 within 300 s \(nodes.gather-timeout\)"
    ):  # fmt: skip
        machines.federate("fedavg", tmp_path / "run", FAST)
    with world(CLIENTS, on=[]) as machines, pytest.raises(FederationError, match="no node said who it is within 300 s"):
        machines.federate("fedavg", tmp_path / "none", FAST)


def test_too_few_later_are_waited_for_and_then_end_the_run(whole: Outcome, tmp_path: Path) -> None:
    """The checkpoint stays: with all nodes back, under other ids, the run goes on to the numbers of an unbroken one."""
    with world(CLIENTS) as machines:
        machines.when(2, "evaluate", lambda: [machines.kill(c) for c in range(CLIENTS)])
        with pytest.raises(FederationError, match=r"0 of 3 clients are here, .*2 are needed \(nodes.least\); .*resume=true"):
            machines.federate("fedavg", tmp_path / "run", FAST)
    done = checkpoint.load(tmp_path / "run").done
    with world(CLIENTS) as machines:
        outcome = machines.federate("fedavg", tmp_path / "run", {**FAST, "resume": True})
    assert done == 4 and same(outcome.model, whole.model)
    assert outcome.results["rounds"][1]["global"]["accuracy"] is None and outcome.results["rounds"][1]["measured"] == 0


def test_the_fewest_replies_are_the_fewest_nodes_too(tmp_path: Path) -> None:
    settings: dict[str, Value] = {**FAST, "num-server-rounds": 1, "nodes.gather-timeout": 10.0}
    with world(CLIENTS, on=[2]) as machines:
        assert machines.federate("fedavg", tmp_path / "run", {**settings, "min-replies": 1}).results["complete"]
    with world(CLIENTS, on=(0, 2)) as machines, pytest.raises(FederationError, match="2 of 3 clients are here, without client 1"):
        machines.federate("fedavg", tmp_path / "three", {**settings, "min-replies": 3})


def test_a_message_that_the_server_does_not_take_is_a_failure_with_its_reason(tmp_path: Path) -> None:
    """Flower's grid gives no ids at all where the messages are too large for what stands before the server."""
    with world(CLIENTS) as machines:
        original = machines.push_messages

        def push(messages: list[Message]) -> Any:
            refused = any(m.metadata.message_type == "train" and m.metadata.group_id == "2" for m in messages)
            return [] if refused else original(messages)

        machines.push_messages = push  # type: ignore[method-assign]
        with pytest.raises(FederationError, match=r"round 2, round: 0 valid replies of 3, 2 are needed .*it is too large"):
            machines.federate("fedavg", tmp_path / "run", FAST)


def test_a_dead_id_that_the_server_still_lists_is_not_here_yet(whole: Outcome, tmp_path: Path) -> None:
    """A run that begins within a minute of a restart."""
    with world(CLIENTS) as machines:
        machines.kill(1)
        machines.sleep(10)
        machines.start(1)
        outcome = machines.federate("fedavg", tmp_path / "run", FAST)
        assert machines.time < 200
    assert alike(outcome, whole) and not failures(outcome) and not outcome.results["notes"]


def test_a_resumed_run_counts_partitions_and_knows_those_who_are_away(tmp_path: Path) -> None:
    settings = {**FAST, "nodes.gather-timeout": 60.0}
    with world(CLIENTS) as machines:
        machines.when(2, "train", lambda: setattr(machines, "spoil", _interrupted))
        with pytest.raises(KeyboardInterrupt):
            machines.federate("fedavg", tmp_path / "run", settings)
    with world(CLIENTS, on=(0, 2)) as machines:
        outcome = machines.federate("fedavg", tmp_path / "run", {**settings, "resume": True})
    gone = {(number, name): 1 for number in (2, 3) for name in ("round", "evaluate")}
    assert alike(outcome, without(gone, tmp_path / "others"))
    assert outcome.results["partition"]["counts"] is not None, "its classes were told before"
    with world(2) as machines, pytest.raises(FederationError, match="the run had 3 clients and 2 are here"):
        machines.federate("fedavg", tmp_path / "run", {**settings, "resume": True})


def _interrupted(sent: Sent, reply: Message) -> Message:
    raise KeyboardInterrupt


# Who may take part


def test_a_second_node_with_a_partition_is_not_asked(whole: Outcome, tmp_path: Path) -> None:
    with world(CLIENTS) as machines:
        machines.sleep(5)
        thief = machines.start(1)
        outcome = machines.federate("fedavg", tmp_path / "run", FAST)
    assert alike(outcome, whole)
    asked = [s for s in machines.sent.values() if s.message.metadata.dst_node_id == thief.id]
    assert {s.message.metadata.message_type for s in asked} == {"query"}
    assert outcome.results["notes"] == [f"node {thief.id} claims the part of client 1, whose node is here; it is not asked"]


def test_a_second_node_that_comes_later_is_not_asked(whole: Outcome, tmp_path: Path) -> None:
    with world(CLIENTS) as machines:
        machines.when(1, "evaluate", lambda: machines.start(1))
        outcome = machines.federate("fedavg", tmp_path / "run", FAST)
    assert alike(outcome, whole)
    assert ["claims the part of client 1" in note for note in outcome.results["notes"]] == [True]


@pytest.mark.parametrize(
    ("lie", "why"),
    [
        (("partitions", 4), "the nodes disagree on num-partitions: 3 and 4 (4 by node"),
        (("partition", 3), "described itself wrongly"),
        (("image-size", 64), "it speaks of other classes or another size of images"),
    ],
)
def test_a_late_node_that_does_not_fit_is_refused_and_the_run_unharmed(
    lie: tuple[str, int], why: str, whole: Outcome, tmp_path: Path
) -> None:
    def spoil(sent: Sent, reply: Message) -> Message:
        if sent.message.metadata.message_type == "query" and sent.node is liar[0]:
            payload = from_records(reply.content)
            payload.metrics[lie[0]] = lie[1]
            reply.content = to_records(payload)
        return reply

    liar: list[Any] = [None]
    with world(CLIENTS) as machines:
        machines.spoil = spoil
        machines.when(1, "evaluate", lambda: liar.__setitem__(0, machines.start(1)))
        outcome = machines.federate("fedavg", tmp_path / "run", FAST)
    assert alike(outcome, whole)
    assert [why in note for note in outcome.results["notes"]] == [True] and f"node {liar[0].id} " in outcome.results["notes"][0]


def test_a_node_that_cannot_describe_itself_is_named_by_the_id_that_was_asked(tmp_path: Path) -> None:
    with world(CLIENTS) as machines:
        bad = machines.node(1)
        machines.node_config[1] = {"hollowed.memory-budget-mb": "nonsense"}
        outcome = machines.federate("fedavg", tmp_path / "run", {**FAST, "num-server-rounds": 1, "nodes.gather-timeout": 40.0})
        assert f"node {bad.id} cannot take part: " in outcome.results["notes"][0]
        assert f"node {bad.id}, which cannot take part" in next(line for line in machines.lines if line.startswith("waiting"))
    with world(1) as machines:
        machines.node_config[0] = {"hollowed.memory-budget-mb": "nonsense"}
        with pytest.raises(SettingError, match=rf"node {machines.node(0).id} cannot take part: client 0: "):
            machines.federate("fedavg", tmp_path / "alone", FAST)
        assert machines.time < 60, "where nobody can, there is nobody to wait for"


def test_few_of_many_places_are_enough_where_no_more_are_expected(tmp_path: Path) -> None:
    with world(8, on=(0, 1)) as machines:
        outcome = machines.federate("fedavg", tmp_path / "run", {**FAST, "num-server-rounds": 1, "nodes.expected": 2})
        assert outcome.results["rounds"] and machines.time < 60


@pytest.mark.parametrize("version", ["fedwarm", "flwr"])
def test_a_node_of_another_version_is_waited_for_where_all_are_and_not_where_those_online_are(
    version: str, tmp_path: Path
) -> None:
    def spoil(sent: Sent, reply: Message) -> Message:
        if sent.message.metadata.message_type == "query" and sent.node is bad:
            payload = from_records(reply.content)
            payload.facts[version] = "99.0.0"
            reply.content = to_records(payload)
        return reply

    for expected in (CLIENTS, 0):
        with world(CLIENTS) as machines:
            bad, machines.spoil = machines.node(1), spoil
            settings = {**FAST, "num-server-rounds": 1, "nodes.gather-timeout": 40.0, "nodes.expected": expected}
            outcome = machines.federate("fedavg", tmp_path / f"run-{expected}", settings)
            assert f"node {bad.id} cannot take part: it runs {version} '99.0.0'" in outcome.results["notes"][0]
            waited = any(line.startswith("waiting") for line in machines.lines)
            assert waited is (expected == 0), machines.lines


# Replies that come late, twice or too large


def test_a_late_answer_to_the_first_question_is_not_taken(whole: Outcome, tmp_path: Path) -> None:
    """The old machine was only cut off: it answers when its client was asked again on another one."""
    with world(CLIENTS) as machines:

        def accident() -> None:
            old = machines.node(1)
            machines.kill(1)
            machines.at(machines.time + 5, lambda: machines.start(1))
            machines.at(machines.time + NOTICED_SECONDS + 20, lambda: setattr(old, "died", None))

        machines.when(2, "train", accident)
        outcome = machines.federate("fedavg", tmp_path / "run", FAST)
    assert alike(outcome, whole)
    assert len([e for e in outcome.ledger if e["client"] == 1 and e["round"] == 2 and not e["failure"]]) == 2


@pytest.mark.parametrize(("fault", "why"), [("old ticket", "it answers message"), ("oversized", "is the most that fits")])
def test_an_old_or_oversized_answer_after_a_second_question_is_refused(fault: str, why: str, tmp_path: Path) -> None:
    def spoil(sent: Sent, reply: Message) -> Message:
        asked = from_records(sent.message.content)
        if sent.message.metadata.group_id != "2" or not asked.text("ticket").endswith(".1.1") or reply.has_error():
            return reply
        payload = from_records(reply.content)
        arrays = dict(payload.arrays)
        if fault == "oversized":
            arrays = {**arrays, "more": next(iter(arrays.values())).repeat(100, axis=0)}
        facts = {**payload.facts, **({"ticket": asked.text("ticket").replace(".1.1", ".0.1")} if fault == "old ticket" else {})}
        reply.content = to_records(Payload(payload.kind, arrays, payload.metrics, facts))
        return reply

    with world(CLIENTS) as machines:

        def accident() -> None:
            machines.kill(1)
            machines.at(machines.time + 5, lambda: machines.start(1))

        machines.spoil = spoil
        machines.when(2, "train", accident)
        outcome = machines.federate("fedavg", tmp_path / "run", FAST)
    assert alike(outcome, without({(2, "round"): 1}, tmp_path / "others"))
    assert len(failures(outcome)) == 2 and why in failures(outcome)[1]


# What the record says


@pytest.mark.parametrize("stage", ["query", "train"])
def test_what_cannot_be_read_ends_no_run(stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower's grid raises as it makes a message of what a node sent, after it has said that all is there."""
    with world(CLIENTS) as machines:
        pull, bad = machines.pull_messages, set[str]()

        def pulls(message_ids: list[str]) -> list[Message]:
            for sent in [machines.sent[each] for each in message_ids]:
                if sent.node is machines.node(1) and sent.message.metadata.message_type == stage:
                    bad.update(message_ids)
                    raise AttributeError("'ConfigRecord' object has no attribute 'metadata'")
            return list(pull(message_ids))

        monkeypatch.setattr(machines, "pull_messages", pulls)
        outcome = machines.federate("fedavg", tmp_path / "run", {**FAST, "nodes.gather-timeout": 30.0})
    assert bad and len(outcome.results["rounds"]) >= 3
    told = outcome.results["notes"] if stage == "query" else failures(outcome)
    assert [line for line in told if "cannot be read (AttributeError)" in line]


def test_sites_are_called_by_their_names(tmp_path: Path) -> None:
    """Registered names first, else what a node's config says; nothing that could not stand in a page."""
    with world(4, on=[3]) as machines:
        machines.start(0, name="site-a")
        machines.start(1, name="<b>")
        machines.start(2)
        machines.node_config[2] = {"site": "klinik.süd"}
        machines.when(1, "train", lambda: [machines.kill(0), machines.kill(2)])
        outcome = machines.federate("fedavg", tmp_path / "run", {**FAST, "num-server-rounds": 1})
    assert outcome.results["partition"]["sites"] == ["site-a", "", "klinik.süd", ""]
    assert [line.split(",")[0] for line in failures(outcome)] == ["site-a (0)", "klinik.süd (2)"]
    assert {e["client"]: e.get("site") for e in outcome.ledger} == {0: "site-a", 1: None, 2: "klinik.süd", 3: None}
    assert read_run(outcome.folder).sites == ["site-a", "", "klinik.süd", ""]


class Untested(BaseClient):
    """Nobody can measure in round 2, and client 0 cannot in round 3."""

    def evaluate(self, payload: Payload) -> Payload:
        if payload.count("round") == 2 or (payload.count("round") == 3 and self.node.partition == 0):
            raise RuntimeError("the test images are gone")
        return super().evaluate(payload)


UNTESTED = Method("Untested", "FedAvg whose test images are lost.", client=f"{__name__}:Untested")


def test_failed_evaluations_end_no_run_on_any_engine(whole: Outcome, tmp_path: Path) -> None:
    here = run(f"{__name__}:UNTESTED", tmp_path / "here", {**FAST, "evaluate.bit-widths": "8"}, clients=CLIENTS)
    with world(CLIENTS) as machines:
        there = machines.federate(f"{__name__}:UNTESTED", tmp_path / "there", FAST)
    for outcome in (here, there):
        rounds = outcome.results["rounds"]
        assert outcome.results["complete"] and same(outcome.model, whole.model)
        assert [entry.get("measured") for entry in rounds] == [None, 0, 2]
        assert rounds[1]["global"] == {"accuracy": None, "per_client": [None] * 3} and rounds[2]["global"]["accuracy"] > 0
        assert any("the test images are gone" in line for line in rounds[1]["failures"])
    assert SUPERLINK_NODE_ID == 1

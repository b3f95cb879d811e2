"""A partition belongs to one registered name, a name has one partition, and who claims another's is refused without harm."""

from __future__ import annotations

from pathlib import Path

import pytest
from flwr.app import Message

from fedwarm.catalogue import parse
from fedwarm.core.nodes import Nodes, bound
from fedwarm.flower.wire import from_records, to_records
from fedwarm.launch.preflight import check_run
from fedwarm.rounds import register
from fedwarm.rounds import server as base
from fedwarm.rounds.bindings import Bindings, NotAdmitted
from fedwarm.rounds.fleet import FederationError
from fedwarm.settings.fields import SettingError, Value
from tests.machines import Machines, Node, Sent, world
from tests.runs import Outcome, run, same

FAST: dict[str, Value] = {
    "num-server-rounds": 2, "local-epochs": 1, "data.max-examples": 16, "model.name": "logistic", "server-threads": 1,
    "nodes.gather-timeout": 60.0, "nodes.return-timeout": 20.0,
}  # fmt: skip
LISTED = "hospital-a=0, hospital-b=1"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The same run of two clients on the local engine."""
    return run("fedavg", tmp_path_factory.mktemp("pair") / "run", FAST, clients=2)


def hospitals(machines: Machines, *which: int) -> None:
    for partition in which or range(2):
        machines.start(partition, name=f"hospital-{'ab'[partition]}")


def worked(machines: Machines, node: Node) -> bool:
    """Whether a node was asked for more than who it is."""
    asked = [sent.message.metadata for sent in machines.sent.values()]
    return any(data.dst_node_id == node.id and data.message_type != "query" for data in asked)


def test_the_first_name_that_claims_a_partition_has_it_for_the_whole_run(pair: Outcome, tmp_path: Path) -> None:
    """Also when its node is away: the other name is refused with a sentence that names both, and the run goes on without it."""
    with world(2, on=()) as machines:
        hospitals(machines)
        own = machines.node(1)
        machines.when(1, "evaluate", lambda: machines.start(1, name="mallory"))
        machines.when(2, "train", lambda: setattr(own, "died", machines.time))
        outcome = machines.federate("fedavg", tmp_path / "run", FAST)
    other = machines.node(1)
    why = "it is registered as 'mallory' and claims partition 1, which belongs to 'hospital-b'; give it its own partition-id"
    assert f"node {other.id} (mallory) cannot take part: {why}" in outcome.results["notes"]
    assert outcome.results["complete"] and not worked(machines, other)
    assert [line.split(",")[0] for line in outcome.results["rounds"][1]["failures"]] == ["hospital-b (1)"]
    assert outcome.results["rounds"][0]["global"] == pair.results["rounds"][0]["global"]
    assert f"node {other.id} (mallory) cannot take part: {why}" in machines.lines


def test_the_same_name_comes_back_under_another_id(pair: Outcome, tmp_path: Path) -> None:
    with world(2, on=()) as machines:
        hospitals(machines)
        machines.when(2, "train", lambda: [machines.kill(1), machines.at(machines.time + 5, lambda: hospitals(machines, 1))])
        outcome = machines.federate("fedavg", tmp_path / "run", {**FAST, "nodes.return-timeout": 120.0})
    assert same(outcome.model, pair.model) and not outcome.results["notes"]


@pytest.mark.parametrize("told", [True, False])
def test_a_resumed_run_knows_whose_partition_is_whose(
    told: bool, pair: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint that does not say it (one written before names were bound) is resumed, and first claims bind anew."""
    if not told:
        monkeypatch.setattr(base, "remembered", lambda fleet, bindings: register.remembered(fleet, {}))
    with world(2, on=()) as machines:
        hospitals(machines)
        machines.when(2, "train", lambda: [machines.kill(0), machines.kill(1)])
        with pytest.raises(FederationError, match="0 valid replies of 2"):
            machines.federate("fedavg", tmp_path / "run", {**FAST, "num-server-rounds": 3})
    with world(2, on=()) as machines:
        other = machines.start(1, name="mallory")
        machines.sleep(1)
        hospitals(machines)
        outcome = machines.federate("fedavg", tmp_path / "run", {**FAST, "num-server-rounds": 3, "resume": True})
    assert outcome.results["complete"] and worked(machines, other) is not told
    assert any("(mallory) cannot take part" in note for note in outcome.results["notes"]) is told
    assert any("(hospital-b) cannot take part" in note for note in outcome.results["notes"]) is not told


def test_the_setting_binds_from_the_start_whoever_comes_first(pair: Outcome, tmp_path: Path) -> None:
    with world(2, on=()) as machines:
        strangers = [machines.start(0, name="mallory"), machines.start(1, name="hospital-a"), machines.start(1)]
        machines.sleep(30)
        machines.at(50.0, lambda: hospitals(machines))
        outcome = machines.federate("fedavg", tmp_path / "run", {**FAST, "nodes.partitions": LISTED})
    assert same(outcome.model, pair.model) and not any(worked(machines, each) for each in strangers)
    whys = [
        "(mallory) cannot take part: it is registered as 'mallory' and claims partition 0, which belongs to 'hospital-a'; give "
        "it its own partition-id, or change nodes.partitions",
        "(hospital-a) cannot take part: it is registered as 'hospital-a' and claims partition 1, which belongs to 'hospital-b'",
        "cannot take part: it has no registered name and claims partition 1, which belongs to 'hospital-b'",
    ]
    notes = outcome.results["notes"]
    assert len(notes) == 3 and all(sum(why in note for note in notes) == 1 for why in whys)
    assert outcome.results["partition"]["sites"] == ["hospital-a", "hospital-b"]


def test_nodes_that_disagree_on_how_many_there_are_are_named(tmp_path: Path) -> None:
    def spoil(sent: Sent, reply: Message) -> Message:
        if sent.node is machines.node(1):
            payload = from_records(reply.content)
            payload.metrics["partitions"] = 4
            reply.content = to_records(payload)
        return reply

    with world(2, on=()) as machines:
        hospitals(machines)
        machines.spoil = spoil
        with pytest.raises(FederationError, match=r"num-partitions: 2 and 4 \(4 by hospital-b, 2 by hospital-a\); give all"):
            machines.federate("fedavg", tmp_path / "run", FAST)


def test_a_name_that_the_setting_does_not_list_is_refused(tmp_path: Path) -> None:
    with world(2, on=()) as machines:
        hospitals(machines, 0)
        machines.start(1, name="hospital-c")
        settings: dict[str, Value] = {**FAST, "num-server-rounds": 1, "nodes.partitions": "hospital-a=0"}
        outcome = machines.federate("fedavg", tmp_path / "run", settings)
        why = "'hospital-c', which nodes.partitions does not list; it lists 'hospital-a'=0"
        assert any(why in note for note in outcome.results["notes"])
        with pytest.raises(FederationError, match=r"'hospital-z' partition 7, and the nodes have 0 to 1 \(num-partitions = 2\)"):
            machines.federate("fedavg", tmp_path / "far", {**FAST, "nodes.partitions": "hospital-z=7"})
        with pytest.raises(SettingError, match="names a node or a partition a second time"):
            machines.federate("fedavg", tmp_path / "twice", {**FAST, "nodes.partitions": "a=0,b=0"})


def test_a_name_has_one_partition(tmp_path: Path) -> None:
    with world(2, on=()) as machines:
        hospitals(machines, 0)
        machines.sleep(1)
        twin = machines.start(1, name="hospital-a")
        outcome = machines.federate("fedavg", tmp_path / "run", {**FAST, "num-server-rounds": 1})
    assert not worked(machines, twin) and "client 1" in outcome.results["notes"][-1]
    assert outcome.results["notes"][0].endswith(
        "it is registered as 'hospital-a' and claims partition 1, while 'hospital-a' has partition 0; a name has one, so give "
        "the node partition-id=0"
    )


@pytest.mark.parametrize("first", ["registered", "self-said"])
def test_nobody_calls_itself_by_a_name_that_another_is_registered_under(first: str, tmp_path: Path) -> None:
    """Nor does what a node says of itself come before its own registered name."""
    with world(3, on=()) as machines:
        machines.node_config = {0: {"site": "mine"}, 1: {"site": "hospital-a"}, 2: {"site": "klinik"}}
        for partition in (0, 1) if first == "registered" else (1, 0):
            machines.start(partition, name="hospital-a" if partition == 0 else "")
            machines.sleep(1)
        machines.start(2)
        outcome = machines.federate("fedavg", tmp_path / "run", {**FAST, "num-server-rounds": 1})
    assert outcome.results["partition"]["sites"] == ["hospital-a", "", "klinik"] and not outcome.results["notes"]


def test_names_that_cannot_be_shown_are_still_told_apart() -> None:
    bindings = Bindings({}, {})
    bindings.bind("<b>", 0)
    with pytest.raises(NotAdmitted, match="'<i>' and claims partition 0, which belongs to '<b>'"):
        bindings.admit("<i>", 0)
    with pytest.raises(NotAdmitted, match=r"has no registered name and claims partition 0"):
        bindings.admit("", 0)
    with pytest.raises(NotAdmitted, match=r"is registered as 'a\\nb' and"):
        bindings.admit("a\nb", 0)
    bindings.admit("", 1)
    assert Bindings({}, {"<b>": 0}).partitions == bindings.partitions


@pytest.mark.parametrize("text", ["hospital-a", "hospital-a=", "=1", "a=one", "a=0,,b=1", "a=-1", "a=0,a=1", "a=0,b=0", "a=²"])
def test_a_list_that_is_none_is_refused_before_work_starts(text: str) -> None:
    with pytest.raises(SettingError, match=r"nodes\.partitions = "):
        check_run({"nodes.partitions": text}, 2)


def test_the_list_is_read_as_it_was_written() -> None:
    nodes = parse({"nodes.partitions": LISTED}).of(Nodes)
    assert bound(nodes, 2) == {"hospital-a": 0, "hospital-b": 1} and bound(Nodes()) == {}
    with pytest.raises(SettingError, match="1 is not a partition; give 0 to 0"):
        bound(nodes, 1)

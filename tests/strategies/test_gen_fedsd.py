"""Gen-FedSD in a federation: real runs on digits with images that the embedded foundation drew in two steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from flwr.app import Message

from fedwarm.augmentations.gen_fedsd.amounts import global_target
from fedwarm.augmentations.gen_fedsd.checks import histogram
from fedwarm.augmentations.gen_fedsd.fill import fill
from fedwarm.augmentations.gen_fedsd.server import GenFedSdServer
from fedwarm.catalogue import parse
from fedwarm.core.payload import Payload
from fedwarm.core.stages import Stage
from fedwarm.data import held_counts, load_shard, partition_table
from fedwarm.data.classes import imbalance
from fedwarm.data.settings import Data
from fedwarm.launch.preflight import check_run
from fedwarm.settings.fields import SettingError, Value
from tests.runs import LOCAL, Outcome, action_of, run, same

FAST: dict[str, Value] = {
    "num-server-rounds": 2, "local-epochs": 1, "data.max-examples": 30, "data.partition": "dirichlet", "data.alpha": 0.3,
    "data.image-size": 16, "server-threads": 1,
}  # fmt: skip
FILLED: dict[str, Value] = {**FAST, "augment": "gen-fedsd", "gen-fedsd.steps": 1, "gen-fedsd.cap": 0.5}
TRANSFORMED: dict[str, Value] = {**FAST, "augment": "gen-fedsd", "gen-fedsd.provider": "transforms"}

GLOBAL: dict[str, Value] = {"method": "fedavg", "gen-fedsd.rule": "global"}


def of_stage(outcome: Outcome, stage: str) -> list[dict[str, object]]:
    return [entry for entry in outcome.ledger if entry["stage"] == stage]


def test_whole_run_balances_every_client_and_sends_nothing_more(tmp_path: Path) -> None:
    settings: dict[str, Value] = {**FILLED, "gen-fedsd.cap": 0.0, "data.max-examples": 12, "num-server-rounds": 1}
    plain = run("fedavg", tmp_path / "plain", {**settings, "augment": "none"}, clients=2)
    filled = run("gen_fedsd", tmp_path / "filled", settings, clients=2)
    told = filled.results["augment"]
    assert told["method"] == "gen-fedsd" and told["histogram"] is None
    for k, client in enumerate(told["per_client"]):
        shard = load_shard(parse(settings).of(Data), 0, k, 2)
        assert client["real"] == shard.counts()
        both = [a + b for a, b in zip(client["real"], client["synthetic"], strict=True)]
        assert both == [max(client["real"])] * 10 and imbalance(both) == 0
        assert client["made"] == sum(client["synthetic"]) > 0 == client["reused"]
        assert client["seconds"] > 0 and client["bytes"] == sum(client["synthetic"]) * 3 * 16 * 16
    sizes = [[(e["payload_bytes_up"], e["payload_bytes_down"]) for e in of_stage(o, "round")] for o in (plain, filled)]
    assert sizes[0] == sizes[1]
    assert all(not m.content.array_records["arrays"] for m in filled.answered("augment"))
    assert not same(plain.model, filled.model)


def drawing(*clients: int) -> Stage:
    return Stage(0, "augment", "train", clients, action="augment", owner="augment")


@pytest.mark.parametrize("method", ["fedavg", "scaffold"])
def test_where_nothing_is_added_training_is_the_plain_run(method: str, tmp_path: Path) -> None:
    plain = run(method, tmp_path / "plain", FAST)
    none = run(method, tmp_path / "none", {**FAST, "augment": "gen-fedsd", "gen-fedsd.provider": "none"})
    assert same(plain.model, none.model)
    assert plain.results["final"] == none.results["final"]
    assert not any("nothing was drawn" in note for note in none.results["notes"])


@pytest.mark.long
def test_later_runs_find_what_was_drawn(tmp_path: Path) -> None:
    first = run("fedavg", tmp_path / "first", FILLED, clients=2)
    again = run("fedprox", tmp_path / "again", {**FILLED, "fedprox.mu": 0.0}, clients=2)
    made = [[(c["made"], c["reused"]) for c in o.results["augment"]["per_client"]] for o in (first, again)]
    assert all(m > 0 == r for m, r in made[0]) and made[1] == [(0, m) for m, _ in made[0]]
    drawn = [[c["drawn_seconds"] for c in o.results["augment"]["per_client"]] for o in (first, again)]
    assert drawn[0] == pytest.approx(drawn[1]) and min(drawn[0]) > 0
    assert same(first.model, again.model)  # fedprox with mu = 0 is fedavg


@pytest.mark.parametrize(
    ("method", "own"),
    [
        ("fedprox", {}),
        ("scaffold", {}),
        ("quantization_robust", {}),
        ("fedavg", {"objective": "kure"}),
        ("fedavg", {"codec": "stochastic-rounding"}),
        ("fedavg", {"codec": "dp-rec", "dp-rec.entropy": "seeded"}),
        ("dp_rec", {**LOCAL, "dp-rec.entropy": "seeded"}),
        ("local_only", {}),
    ],
)
def test_any_method_trains_on_it(method: str, own: dict[str, Value], tmp_path: Path) -> None:
    outcomes = [run(method, tmp_path / name, {**given, **own}, clients=3) for name, given in (("a", FAST), ("b", TRANSFORMED))]
    assert all(o.results["complete"] for o in outcomes)
    if method != "local_only":
        assert not same(outcomes[0].model, outcomes[1].model)
    private = method == "dp_rec" or own.get("codec") == "dp-rec"
    told = outcomes[1].results["augment"]["per_client"]
    assert [c["synthetic"] is None for c in told] == [private] * 3 and [c["seconds"] is None for c in told] == [private] * 3


def test_a_client_that_shares_no_counts_tells_none(tmp_path: Path) -> None:
    outcome = run("fedavg", tmp_path, {**TRANSFORMED, "data.share-class-counts": False}, clients=2)
    assert [(c["real"], c["synthetic"]) for c in outcome.results["augment"]["per_client"]] == [(None, None)] * 2


@pytest.mark.parametrize("by", ["augmented", "real"])
def test_what_a_client_counts_for(by: str, tmp_path: Path) -> None:
    outcome = run("fedavg", tmp_path, {**TRANSFORMED, "gen-fedsd.weight-by": by, "num-server-rounds": 1}, clients=3)
    weights = [r.content.metric_records["metrics"]["num-examples"] for r in outcome.answered("round")]
    each = outcome.results["augment"]["per_client"]
    assert weights == [sum(c["real"]) + (sum(c["synthetic"]) if by == "augmented" else 0) for c in each]


def test_global_target_is_announced_and_its_histograms_are_noisy(tmp_path: Path) -> None:
    settings: dict[str, Value] = {**TRANSFORMED, "gen-fedsd.rule": "global", "num-server-rounds": 1}
    exact = run("fedavg", tmp_path / "exact", settings, clients=3).results["augment"]
    total = sum(sum(c["real"]) for c in exact["per_client"])
    assert exact["target"] == round(total / 30) and exact["histogram"]["epsilon"] is None
    for client in exact["per_client"]:
        assert client["synthetic"] == [max(0, exact["target"] - n) if n else 0 for n in client["real"]]
    covered: dict[str, Value] = {"gen-fedsd.histogram-epsilon": 0.05, "data.share-class-counts": False}
    noisy = run("fedavg", tmp_path / "noisy", {**settings, **covered}, clients=3)
    assert noisy.results["augment"]["histogram"] == {"epsilon": 0.05, "adjacency": "zero_out", "view": "example"}
    told = [list(r.content.config_records["facts"]["counts"]) for r in noisy.answered("gaps")]  # type: ignore[arg-type]
    config = parse(noisy.results["settings"])
    held = [held_counts(config.of(Data), config.run.seed, client, 3) for client in range(3)]
    apart = [abs(a - b) for one, other in zip(told, held, strict=True) for a, b in zip(one, other, strict=True)]
    assert 0 < sum(apart) / len(apart) < 100, "noise of a standard deviation of 28"
    most = -(-config.of(Data).max_examples // 10)
    asked = {m.content.metric_records["metrics"]["target"] for m in noisy.asked("augment")}
    assert asked == {min(round(global_target(told) * (1 - config.of(Data).test_fraction)), most)}
    assert [(c["real"], c["synthetic"]) for c in noisy.results["augment"]["per_client"]] == [(None, None)] * 3


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"data.test-fraction": 0.5},
        {"data.validation-fraction": 0.3},
        {"data.validation-fraction": 0.3, "data.max-examples": 40},
    ],
)
def test_a_target_out_of_all_images_is_that_of_those_that_are_trained_on(more: dict[str, Value]) -> None:
    covered: dict[str, Value] = {"gen-fedsd.histogram-epsilon": 1.0, "data.share-class-counts": False}
    config = parse({**GLOBAL, **covered, "augment": "gen-fedsd", "data.partition": "dirichlet", **more})
    data, server = config.of(Data), GenFedSdServer(config)
    server.histograms = {client: held_counts(data, 0, client, 3) for client in range(3)}
    server._settle(Stage(0, "gaps", "train", (0, 1, 2), action="gaps", owner="augment"))
    assert abs(server.target - global_target(partition_table(data, 0, 3))) <= 1


@pytest.mark.parametrize("judge", ["", "judge.safetensors"])
@pytest.mark.parametrize("refused", ["keep", "drop"])
def test_images_that_nobody_recognises_are_remarked_on(judge: str, refused: str) -> None:
    told = GenFedSdServer(parse({"method": "gen_fedsd", "gen-fedsd.judge": judge, "gen-fedsd.refused": refused}))
    report = {"seconds": 1.0, "drawn_seconds": 1.0, "below_judge": 3}
    told.absorb(
        drawing(0, 1),
        0,
        Payload(metrics=report, facts={"synthetic": [4, 5]}),
        2,
    )
    why, fate = "refused by the judge or blank" if judge else "blank", "left out" if refused == "drop" else "stay"
    assert [text.split(":")[0] for text in told.remarks()] == [
        f"3 of {12 if refused == 'drop' else 9} synthetic images are {why}, and {fate}"
    ]
    told.absorb(
        drawing(0, 1),
        0,
        Payload(metrics=report, facts={"synthetic": [0, 0]}),
        2,
    )
    (one,) = told.remarks()
    assert ("3 of 3" in one) if refused == "drop" else one.startswith("nothing was drawn")
    told.absorb(drawing(0, 1), 0, Payload(facts={"synthetic": [4, 5]}), 2)
    assert not list(told.remarks())


@pytest.mark.long
def test_stopped_after_synthesis_goes_on_to_the_same_model(tmp_path: Path) -> None:
    whole = run("gen_fedsd", tmp_path / "whole", FILLED, clients=2)

    def stop(message: Message) -> None:
        if message.metadata.reply_to_message_id == "" and action_of(message) == "round":
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, RuntimeError)):
        run("gen_fedsd", tmp_path / "part", FILLED, clients=2, listen=stop)
    resumed = run("gen_fedsd", tmp_path / "part", {**FILLED, "resume": True}, clients=2)
    assert same(whole.model, resumed.model)
    keys = ("real", "synthetic", "bytes")
    made = [[[c[key] for key in keys] for c in o.results["augment"]["per_client"]] for o in (whole, resumed)]
    assert made[0] == made[1]


@pytest.mark.parametrize(
    ("flat", "words"),
    [
        ({"method": "warmfed"}, "draws images of its own"),
        ({"method": "centralized"}, "everybody's data together"),
        ({"method": "fedavg", "privacy": "dp-sgd"}, "which no noise covers"),
        ({"method": "dp_rec", "gen-fedsd.rule": "global"}, "does not cover"),
        ({**GLOBAL, "gen-fedsd.histogram-epsilon": 1.0}, "= true tells without noise; set data.share-class-counts = false"),
        ({**GLOBAL, "data.share-class-counts": False}, "= false forbids; set an epsilon above 0"),
        ({"method": "fedavg", "gen-fedsd.rule": "fixed"}, "needs gen-fedsd.fixed"),
        ({"method": "fedavg", "diffusion.foundation": "/no/such/folder"}, "neither a folder nor a Hub name"),
    ],
)
def test_what_does_not_go_together_is_refused_before_any_work(flat: dict[str, Value], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        check_run({**FILLED, **flat}, 2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"privacy": "dp-sgd"}, "which no noise covers"),
        ({**GLOBAL, "gen-fedsd.histogram-epsilon": 1.0}, "tells without noise"),
    ],
)
def test_server_and_clients_refuse_it_too(changes: dict[str, Value], words: str, tmp_path: Path) -> None:
    """Flower's own engines start a run without the check before."""
    config = parse({**TRANSFORMED, **changes, "method": "fedavg"})
    with pytest.raises(SettingError, match=words):
        GenFedSdServer(config)
    with pytest.raises(SettingError, match=words):
        fill(config, load_shard(config.of(Data), 0, 0, 2), 0, tmp_path)


@pytest.mark.parametrize("changes", [{}, {"method": "dp_rec"}, {"augment": "none"}, {"data.share-class-counts": False}])
def test_no_histogram_leaves_a_client_whose_rule_needs_none(changes: dict[str, Value]) -> None:
    with pytest.raises(SettingError, match="sends no histogram, and the server asked for one"):
        histogram(parse({**TRANSFORMED, "method": "fedavg", **changes}), [1, 2])
    assert histogram(parse({**TRANSFORMED, **GLOBAL}), [1, 2]) == [1, 2]


def test_a_reply_that_is_no_report_is_refused() -> None:
    from fedwarm.core.payload import Payload, PayloadError

    found, stage = (
        GenFedSdServer(parse({**FILLED, "method": "fedavg"})),
        drawing(
            0,
        ),
    )
    for wrong in ({"synthetic": [1, 2]}, {"synthetic": [-1] * 10}, {"synthetic": ["a"] * 10}):
        with pytest.raises(PayloadError, match="one number of images for each of 10 classes"):
            found.absorb(stage, 0, Payload(facts=wrong), 10)  # type: ignore[arg-type]
    with pytest.raises(PayloadError, match="'made'"):
        found.absorb(stage, 0, Payload(metrics={"made": -1}), 10)
    assert json.dumps(found.told([None]))


def test_even_classes_draw_nothing_and_the_record_says_so(tmp_path: Path) -> None:
    even: dict[str, Value] = {**FAST, "data.partition": "iid", "data.max-examples": 0, "num-server-rounds": 1}
    outcome = run("gen_fedsd", tmp_path, {**even, "gen-fedsd.rule": "fixed", "gen-fedsd.fixed": 1}, clients=2)
    assert [sum(c["synthetic"]) for c in outcome.results["augment"]["per_client"]] == [0, 0]
    assert any("nothing was drawn" in note for note in outcome.results["notes"])

"""Example-level privacy by setting: clients' training, their epsilon in the ledger, the same on every path."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedwarm.flower.wire import from_records
from fedwarm.privacy.mechanisms.dp_sgd.account import Steps, example_epsilon
from fedwarm.rounds.fleet import FederationError
from fedwarm.settings.fields import Value
from tests.runs import SMALL_WARMFED, run, same

FAST: dict[str, Value] = {"num-server-rounds": 2, "local-epochs": 1, "data.max-examples": 48, "data.image-size": 8,
                          "batch-size": 16, "privacy": "dp-sgd", "dp-sgd.entropy": "seeded"}  # fmt: skip


def test_each_client_tells_its_epsilon(tmp_path: Path) -> None:
    outcome = run("fedavg", tmp_path / "run", FAST)
    rows = [row for row in outcome.ledger if row["stage"] == "round"]
    for number in (1, 2):
        wanted = example_epsilon([Steps(16 / 48, 1.0, 3 * number)], 1e-5)
        assert {round(row["epsilon"], 9) for row in rows if row["round"] == number} == {round(wanted, 9)}
    told, rounds = outcome.results["privacy"], outcome.results["rounds"]
    assert told["epsilon"] == pytest.approx(wanted) and (told["view"], told["mechanism"]) == ("example", "dp-sgd")
    assert rounds[0]["train_loss"] is None and rounds[0]["epsilon"] < wanted
    said = [from_records(r.content) for r in outcome.replies if r.metadata.message_type == "train"]
    assert all("train-loss" not in p.metrics for p in said)
    described = [from_records(r.content) for r in outcome.replies if r.metadata.message_type == "query"]
    assert all("counts" not in p.facts and len(p.facts["present"]) == 10 for p in described)
    plain = run("fedavg", tmp_path / "plain", {**FAST, "privacy": "none"})
    assert not same(plain.model, outcome.model) and plain.results["privacy"] is None


def test_workers_give_the_same_model(tmp_path: Path) -> None:
    one, two = (run("fedprox", tmp_path / str(n), FAST, workers=n) for n in (1, 2))
    assert same(one.model, two.model) and one.results["privacy"] == two.results["privacy"]


def test_a_target_makes_the_noise(tmp_path: Path) -> None:
    told = run("fedavg", tmp_path / "run", {**FAST, "dp-sgd.target-epsilon": 5.0}).results["privacy"]
    assert 4.9 < told["epsilon"] <= 5.0


def test_it_goes_with_dp_rec(tmp_path: Path) -> None:
    settings: dict[str, Value] = {**FAST, "dp-rec.entropy": "seeded", "dp-rec.view": "local"}
    told = run("dp_rec", tmp_path / "run", settings).results["privacy"]
    assert told["view"] == "local" and told["epsilon"] > 0


@pytest.mark.parametrize("own", [{"method": "dp_rec"}, {"method": "fedavg", "codec": "dp-rec"}], ids=str)
def test_beside_dp_rec_the_target_is_stated(own: dict[str, Value], tmp_path: Path) -> None:
    """What an example costs depends on how many images its client has, which may not be told there."""
    settings: dict[str, Value] = {**FAST, "num-server-rounds": 1, "dp-rec.entropy": "seeded", "dp-sgd.target-epsilon": 5.0, **own}
    outcome = run(str(own["method"]), tmp_path / "run", settings, clients=2)
    example = outcome.results["privacy"]["example_level"]
    assert (example["epsilon"], example["adjacency"], example["view"]) == (5.0, "zero_out", "example")
    said = [from_records(r.content) for r in outcome.replies if r.has_content()]
    assert not any({"epsilon", "correct-personal", "train-loss"} & p.metrics.keys() for p in said)
    assert {p.metrics["num-test"] for p in said if "num-test" in p.metrics} == {0, 100}


@pytest.mark.long
def test_an_adapter_is_tuned_privately(tmp_path: Path) -> None:
    """Its matrices have moved, and its epsilon is that of its own steps."""
    settings: dict[str, Value] = {**SMALL_WARMFED, "data.max-examples": 12, "diffusion.sample-steps": 2, "server-threads": 1,
                                  "diffusion.lora-steps": 2, "privacy": "dp-sgd", "dp-sgd.entropy": "seeded"}  # fmt: skip
    outcome = run("warmfed", tmp_path / "run", settings)
    said = [from_records(r.content) for r in outcome.answered("adapt")]
    wanted = example_epsilon([Steps(4 / 12, 1.0, 2)], 1e-5)
    for payload in said:
        assert payload.metrics["epsilon"] == pytest.approx(wanted)
        up = [array for name, array in payload.arrays.items() if "lora_B" in name]
        assert up and all((array != 0).any() for array in up)


def test_objectives_on_weights_are_covered(tmp_path: Path) -> None:
    outcome = run("fedavg", tmp_path / "run", {**FAST, "objective": "mqat"})
    assert outcome.results["complete"] and outcome.results["privacy"]["epsilon"] > 0


def test_objectives_that_it_does_not_cover_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FederationError, match="dp-sgd does not cover Mqat"):
        run("fedavg", tmp_path / "run", {**FAST, "objective": "mqat", "quantization-robust.quantize-activations": True})

"""FedAvg and tuning: the global model is FedAvg's, and each client's own is that one tuned, which nobody is sent."""

from __future__ import annotations

from pathlib import Path

import torch

from fedwarm.catalogue import parse
from fedwarm.core.seeds import generator
from fedwarm.data import load_shard
from fedwarm.data.settings import Data
from fedwarm.launch.finished import personal
from fedwarm.models import Model, build_model
from fedwarm.record.reading import read_run
from fedwarm.settings.fields import Value
from fedwarm.training.evaluate import correct
from fedwarm.training.loop import fit
from fedwarm.training.plan import Plan
from tests.runs import run, same

SMALL: dict[str, Value] = {
    "num-server-rounds": 2, "local-epochs": 1, "data.max-examples": 40, "data.image-size": 8, "model.name": "logistic",
    "learning-rate": 0.05, "server-threads": 1,
}  # fmt: skip


def test_the_last_model_is_tuned_by_each_client_for_itself(tmp_path: Path) -> None:
    plain = run("fedavg", tmp_path / "plain", SMALL)
    outcome = run("fedavg_ft", tmp_path / "tuned", {**SMALL, "fedavg-ft.epochs": 3})
    assert same(plain.model, outcome.model)
    assert plain.results["totals"]["bytes_up"] == outcome.results["totals"]["bytes_up"]
    first, last = outcome.results["rounds"][-2:]
    assert first["personal"] is None and last["global"] == plain.results["rounds"][-1]["global"]
    config = parse({"method": "fedavg_ft", **SMALL})
    for client, share in enumerate(last["personal"]["per_client"]):
        shard = load_shard(config.of(Data), 0, client, 4)
        state = {name: torch.from_numpy(array.copy()) for name, array in plain.model.items()}
        model = build_model(config.of(Model), 10, 8, 0, state)
        fit(model, shard.train_images, shard.train_labels, Plan.of(config.run, 3, number=2), generator(0, "tune", 2, client))
        assert share == correct(model, shard.test_images, shard.test_labels) / len(shard.test_labels)
        kept = personal(read_run(tmp_path / "tuned"), client).model.state_dict()
        assert all(torch.equal(kept[name], tensor) for name, tensor in model.state_dict().items())


def test_a_run_that_may_stop_early_tunes_each_round_s_model(tmp_path: Path) -> None:
    outcome = run("fedavg_ft", tmp_path / "run", {**SMALL, "target": 0.99})
    assert all(entry["personal"] is not None for entry in outcome.results["rounds"])

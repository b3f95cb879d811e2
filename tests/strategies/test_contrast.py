"""The task `contrast` in methods that know nothing of it: features are measured, and what needs answers is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from fedwarm.catalogue import parse
from fedwarm.core.arrays import to_tensors
from fedwarm.data.settings import Data
from fedwarm.data.shards import load_shard
from fedwarm.launch.preflight import check_run
from fedwarm.models import Model, behead, build_model
from fedwarm.settings.fields import SettingError, Value
from fedwarm.training.frozen import right_by_neighbours
from tests.runs import run

CLIENTS = 3
SMALL: dict[str, Value] = {
    "method": "fedavg", "task": "contrast", "contrast.width": 8, "contrast.neighbours": 3, "num-server-rounds": 1,
    "local-epochs": 1, "batch-size": 15, "data.max-examples": 30, "data.image-size": 8, "data.validation-fraction": 0.2,
}  # fmt: skip


def test_a_round_is_measured_by_neighbours_of_the_features_below_the_head(tmp_path: Path) -> None:
    outcome = run("fedavg", tmp_path / "run", SMALL, clients=CLIENTS)
    config, right, held = parse(SMALL), 0, 0
    for client in range(CLIENTS):
        shard = load_shard(config.of(Data), config.run.seed, client, CLIENTS)
        model: nn.Module = build_model(config.of(Model), 8, shard.form, 0, to_tensors(outcome.model))
        behead(config.of(Model), model)
        known, asked = (shard.train_images, shard.train_labels), (shard.test_images, shard.test_labels)
        right += right_by_neighbours(model, known, asked, len(shard.classes), 3)
        held += len(shard.test_labels)
    assert outcome.results["final"]["global"]["accuracy"] == pytest.approx(right / held)
    assert right / held > 0.2


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"method": "ifca"}, "method = 'ifca' works on a model's answers alone, and task = 'contrast' gives none"),
        ({"method": "warmfed"}, "method = 'warmfed' works on a model's answers alone"),
        ({"evaluate.bit-widths": "4"}, r"evaluate\.\*\) works on a model's answers alone"),
        ({"data.test": "central", "data.validation-fraction": 0.0}, "measured by neighbours among a client's own examples"),
    ],
)  # fmt: skip
def test_what_needs_answers_is_refused_before_a_run(more: dict[str, Value], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        check_run({**SMALL, **more}, CLIENTS)

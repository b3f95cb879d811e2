"""The final encoder measured as it is: by client, pooled, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedwarm.catalogue import parse
from fedwarm.core.arrays import to_tensors
from fedwarm.data import load_pooled, load_shard
from fedwarm.data.settings import Data
from fedwarm.measures.probes import COMPONENT, Probe
from fedwarm.models import Model, behead, build_model
from fedwarm.rounds.gate import refuse_uncovered
from fedwarm.settings.fields import SettingError, Value
from tests.runs import run, same

SMALL: dict[str, Value] = {
    "num-server-rounds": 1, "local-epochs": 1, "data.max-examples": 20, "data.image-size": 8, "server-threads": 1,
    "client-threads": 1, "data.rotation": 90.0,
}  # fmt: skip
ON: dict[str, Value] = {"probe.linear": True, "probe.neighbours": 3}


def test_it_changes_nothing_and_tells_what_a_look_at_the_model_gives(tmp_path: Path) -> None:
    plain, measured = (run("fedavg", tmp_path / str(len(own)), {**SMALL, **own}, clients=2) for own in ({}, ON))
    assert same(plain.model, measured.model) and "measures" not in plain.results
    found, config = measured.results["measures"]["probes"], parse({**SMALL, **ON, "method": "fedavg"})
    torch.set_num_threads(1)
    for k in (0, 1, None):
        encoder = build_model(config.of(Model), 10, 8, 0, to_tensors(measured.model))
        behead(config.of(Model), encoder)
        data = config.of(Data)
        shard = load_pooled(data, 0, 2) if k is None else load_shard(data, 0, k, 2)
        for name, right in config.of(Probe).right(encoder, shard).items():
            told = found["pooled"][name] if k is None else found["by_client"][name][k]
            assert told == right / len(shard.test_labels)


def test_private_runs_and_tests_at_the_server_are_refused() -> None:
    with pytest.raises(SettingError, match=r"set probe.linear = false"):
        refuse_uncovered(parse({"method": "fedavg", "privacy": "dp-sgd", **ON}))
    refuse_uncovered(parse({"method": "fedavg", "privacy": "dp-sgd"}))
    with pytest.raises(SettingError, match=r"measured at clients, too; take data.test = 'split' or 'held-out'"):
        COMPONENT.validate(parse({"method": "fedavg", "data.test": "central", **ON}))

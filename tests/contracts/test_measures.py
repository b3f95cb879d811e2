"""What every measure keeps to, an installed package's own among them; each check can be called for any measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from fedwarm.catalogue import all_groups, groups_of, parse
from fedwarm.core.arrays import from_module, to_tensors
from fedwarm.core.payload import Payload, PayloadError
from fedwarm.data.settings import Data
from fedwarm.data.shards import load_shard
from fedwarm.models import Model, build_model
from fedwarm.record.ledger import Ledger, measuring
from fedwarm.record.record import Record
from fedwarm.relevance import Run
from fedwarm.rounds.chosen import parts_of
from fedwarm.settings.config import Config
from fedwarm.settings.fields import Value, keys
from fedwarm.settings.kinds import MEASURES
from fedwarm.settings.registry import Kind

ON: Mapping[str, dict[str, Value]] = {
    "densities": {"prune.densities": "0.5"},
    "widths": {"evaluate.bit-widths": "8,4", "evaluate.calibration-images": 5},
    "probes": {"probe.linear": True, "probe.neighbours": 3},
}
SMALL: dict[str, Value] = {"method": "fedavg", "data.max-examples": 24, "data.image-size": 8, "model.name": "logistic"}

Check = Callable[[Kind[Any], str], None]


class Holder:
    """A client as a measure's half sees it."""

    def __init__(self, config: Config) -> None:
        self.config, self.real = config, load_shard(config.of(Data), 0, 0, 1)

    def model(self, payload: Payload | None = None, plain: bool = False) -> Any:
        state = None if payload is None else to_tensors(payload.arrays)
        return build_model(self.config.of(Model), 10, 8, 0, state)


def check_halves(kind: Kind[Any], name: str) -> None:
    """A client's answer is what the server takes: counts alone, under a stage that is booked as measuring."""
    config = parse({**SMALL, **ON.get(name, {})})
    record, holder = Record(config, Ledger()), Holder(config)
    server, client = kind.load(name).server(config), kind.load(name).client(config, None)
    arrays = from_module(holder.model())
    stages = list(server.after((0, 1), 3, arrays))
    assert {stage.round for stage in stages} <= {3} and (stages or name not in ON)
    for stage in stages:
        assert stage.owner in parts_of(config) and measuring(stage.name) and stage.asked in client.actions
        answer = client.answer(stage.asked, server.instruct(stage, 0, arrays), holder)
        assert not answer.arrays
        server.absorb(stage, 0, answer, 10)
        with pytest.raises(PayloadError):
            server.absorb(stage, 1, replace(answer, metrics={}), 10)
        server.finish(stage, {0: answer}, [None], record)
    assert bool(record.events) is bool(stages)


def check_unasked(kind: Kind[Any], name: str) -> None:
    """Without a global model nothing is measured; its groups are found, and what it takes beside them exists."""
    config = parse({**SMALL, **ON.get(name, {})})
    server, groups, run = kind.load(name).server(config), groups_of(kind, name), Run.of(config)
    assert list(server.before((0,))) == [] and list(server.after((0,), 1, {})) == []
    assert all(run.has(group) for group in groups) and set(groups) <= set(all_groups())
    assert run.taken <= {key for key, _, _ in keys(all_groups())}


CHECKS: tuple[Check, ...] = (check_halves, check_unasked)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", MEASURES)
def test_contract(name: str, check: Check) -> None:
    check(MEASURES, name)

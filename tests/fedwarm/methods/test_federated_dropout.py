"""Federated dropout: parts of the network that clients are sent, and its limit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedwarm.flower.wire import from_records
from fedwarm.methods.federated_dropout import drawn
from fedwarm.models import Model
from fedwarm.settings.fields import Value
from fedwarm.sparse.groups import groups_of
from fedwarm.sparse.packing import PACKED, Reader, values_bytes
from tests.runs import run, same

SMALL: dict[str, Value] = {
    "num-server-rounds": 2, "local-epochs": 1, "data.max-examples": 24, "data.image-size": 16, "model.name": "lenet5",
}  # fmt: skip


def test_a_share_of_each_layer_is_drawn() -> None:
    groups = groups_of(Model(name="lenet5"), 10, 16)
    mask = drawn(groups, 0.25, np.random.default_rng(0))
    assert {layer: int(part.sum()) for layer, part in groups.layers(mask).items()} == {"0": 2, "3": 4, "7": 4, "9": 30, "11": 21}


def test_with_all_units_it_is_fedavg_bit_for_bit(tmp_path: Path) -> None:
    ours = run("federated_dropout", tmp_path / "ours", {**SMALL, "federated-dropout.keep": 1.0})
    assert same(ours.model, run("fedavg", tmp_path / "plain", SMALL).model)


@pytest.mark.parametrize("codec", ["dense", "stochastic-rounding"])
def test_clients_send_all_that_they_were_sent(codec: str, tmp_path: Path) -> None:
    """In the bytes of the groups and a mask; the same again where the run is resumed."""
    settings: dict[str, Value] = {**SMALL, "federated-dropout.keep": 0.5, "codec": codec}
    whole = run("federated_dropout", tmp_path / "whole", settings)
    groups = groups_of(Model(name="lenet5"), 10, 16)
    lines = [line for line in whole.ledger if line.get("stage") == "round"]
    for message, line in zip(whole.asked("round"), lines, strict=True):
        mask = Reader(from_records(message.content).arrays[PACKED]).mask(groups.count)
        chosen = groups.chosen(groups.live(np.ones(groups.count, np.bool_)), mask)
        assert line["payload_bytes_down"] == 31 + values_bytes(chosen)
        bits = 4 if codec != "dense" else 0
        assert line["payload_bytes_up"] == -(-int(mask.sum()) // 8) + values_bytes(chosen, bits)
    run("federated_dropout", tmp_path / "part", {**settings, "num-server-rounds": 1})
    assert same(run("federated_dropout", tmp_path / "part", {**settings, "resume": True}).model, whole.model)

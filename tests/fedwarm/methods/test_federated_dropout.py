"""Federated dropout: parts of the network that clients are sent, and its limit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fedwarm.flower.wire import from_records
from fedwarm.methods.federated_dropout import Dropped, PartMean, drawn, factors, part
from fedwarm.models import Model, build_model
from fedwarm.settings.fields import Value
from fedwarm.sparse.groups import groups_of
from fedwarm.sparse.packing import PACKED, Reader, values_bytes
from tests.runs import run, same

SMALL: dict[str, Value] = {
    "num-server-rounds": 2, "local-epochs": 1, "data.max-examples": 24, "data.image-size": 16, "model.name": "lenet5",
}  # fmt: skip


def test_a_share_of_each_layer_is_drawn() -> None:
    """Of maps and hidden units; inputs behind a convolution go with their map, inputs of the network stay."""
    groups = groups_of(Model(name="lenet5"), 10, 16)
    mask = drawn(groups, 0.25, np.random.default_rng(0))
    layers = groups.layers(mask)
    assert {layer: int(part.sum()) for layer, part in layers.items()} == {"0": 2, "3": 4, "7": 4, "9": 30, "11": 21}
    assert np.array_equal(layers["7"], np.repeat(layers["3"], len(layers["7"]) // 16))
    mlp = groups_of(Model(name="mlp"), 10, 16)
    first, *hidden = mlp.layers(drawn(mlp, 0.25, np.random.default_rng(0))).values()
    assert first.all() and hidden and all(part.sum() == round(part.size / 4) for part in hidden)
    one = groups_of(Model(name="logistic"), 10, 16)
    assert drawn(one, 0.25, np.random.default_rng(0)).all()


@pytest.mark.parametrize("name", ["lenet5", "mlp", "cnn"])
@pytest.mark.parametrize("keep", [0.1, 0.4, 0.8])
def test_what_is_sent_is_what_has_a_gradient(name: str, keep: float) -> None:
    """No row, column or bias of a unit that is off travels; nearly all else learns from random inputs."""
    settings = Model(name=name)
    groups, model = groups_of(settings, 10, 16), build_model(settings, 10, 16, 0)
    mask = drawn(groups, keep, np.random.default_rng(1))
    sent = part(groups, mask)
    for layer in model.modules():
        if isinstance(layer, nn.ReLU):
            layer.forward = lambda x: x  # type: ignore[method-assign]  # so that a gradient of 0 is a unit's and no kink's
    Dropped(groups, factors(groups, mask)).prepare(model)
    inputs = torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    model(inputs).square().sum().backward()
    for tensor, parameter in model.named_parameters():
        assert parameter.grad is not None
        moved = (parameter.grad != 0).numpy()
        assert not (moved & ~sent[tensor]).any() and (moved & sent[tensor]).sum() > 0.85 * sent[tensor].sum(), tensor


def test_factors_make_up_for_the_units_that_are_off() -> None:
    """By the number that was kept, which is rounded: their sum is that of all units."""
    groups = groups_of(Model(name="lenet5"), 10, 16)
    mask = drawn(groups, 0.1, np.random.default_rng(2))
    for layer, values in groups.layers(factors(groups, mask)).items():
        kept = groups.layers(mask)[layer]
        assert (values[~kept] == 0).all()
        assert (values[kept] == 1).all() if layer == "7" else values.sum() == pytest.approx(values.size)


def test_a_number_is_averaged_over_those_that_had_it() -> None:
    groups = groups_of(Model(name="lenet5"), 10, 16)
    masks = [drawn(groups, 0.5, np.random.default_rng(seed)) for seed in (0, 1, 2)]
    before = {name: np.full(shape, 7.0, np.float32) for name, shape in groups.shapes.items()}
    mean, weights = PartMean(groups), (1.0, 2.0, 5.0)
    for k, (mask, weight) in enumerate(zip(masks, weights, strict=True)):
        arrays = {name: np.full(shape, float(k), np.float32) for name, shape in groups.shapes.items()}
        mean.add(arrays, part(groups, mask), mask.astype(float), weight)
    found = mean.result(before)
    for name, array in found.items():
        had = np.stack([part(groups, mask)[name] * w for mask, w in zip(masks, weights, strict=True)])
        value = np.tensordot(np.arange(3.0), had, 1)
        wanted = np.where(had.sum(0) > 0, value / np.maximum(had.sum(0), 1e-9), 7.0)
        np.testing.assert_allclose(array, wanted, rtol=1e-6)


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
        chosen = part(groups, mask)
        assert line["payload_bytes_down"] == 31 + values_bytes(chosen)
        bits = 4 if codec != "dense" else 0
        assert line["payload_bytes_up"] == -(-int(mask.sum()) // 8) + values_bytes(chosen, bits)
    run("federated_dropout", tmp_path / "part", {**settings, "num-server-rounds": 1})
    assert same(run("federated_dropout", tmp_path / "part", {**settings, "resume": True}).model, whole.model)

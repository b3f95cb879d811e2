"""Supermasks: what is frozen and what is ranked, which weights are on, and the gradient of scores by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fedwarm.core.payload import PayloadError
from fedwarm.settings.fields import SettingError
from fedwarm.sparse.supermask import ScoreHook, Supermask, on, ranked
from fedwarm.tasks import made
from fedwarm.training.loop import Plan, fit


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(2, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5), nn.ReLU(), nn.Linear(5, 3)
    )


def network(density: float = 0.5, signed: bool = False, seed: int = 0) -> Supermask:
    return Supermask.of(net(), density, signed, seed)


def test_weights_follow_from_the_seed_alone() -> None:
    """Signed constants of the fan in; biases are 0, scale is 1 and shift 0, whatever the architecture drew."""
    one, again, other = network(), network(), network(seed=1)
    assert [*one.weights] == ["0.weight", "4.weight", "6.weight"] == [*one.values]
    for name, inputs in (("0.weight", 6), ("4.weight", 24), ("6.weight", 5)):
        assert np.array_equal(np.abs(one.weights[name]), np.full_like(one.weights[name], (2 / inputs) ** 0.5))
        assert np.array_equal(one.weights[name], again.weights[name]) and np.array_equal(one.first[name], again.first[name])
        assert not np.array_equal(one.weights[name], other.weights[name])
        assert 0.1 < (one.weights[name] > 0).mean() < 0.9 and np.abs(one.values[name]).max() <= inputs**-0.5
    state = one.state(one.first)
    assert all(array.tolist() == [float(name == "1.weight")] * array.size for name, array in state.items() if array.ndim == 1)
    net().load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})


@pytest.mark.parametrize("density", [0.01, 0.5, 1.0])
def test_a_share_of_each_layer_is_on(density: float) -> None:
    found = network(density)
    for name, array in found.state(found.first).items():
        if name in found.weights:
            kept = array != 0
            assert kept.sum() == max(1, round(density * array.size))
            assert np.array_equal(array[kept], found.weights[name][kept])
            assert {*np.flatnonzero(kept)} == {*found.first[name][array.size - kept.sum() :]}, "the last of the order"


def test_by_value_both_ends_are_on() -> None:
    found = network(signed=True)
    order, state = found.first["4.weight"], found.state(found.first)["4.weight"].reshape(-1)
    assert state[order[0]] != 0 != state[order[-1]] and state[order[np.argmin(np.abs(found.values["4.weight"]))]] == 0


def test_those_as_large_as_the_last_are_on_too() -> None:
    assert on(torch.tensor([1.0, -2.0, 2.0, 0.5]), 1).tolist() == [False, True, True, False]


@pytest.mark.parametrize("signed", [False, True])
def test_scores_and_orders_are_the_same_thing(signed: bool) -> None:
    found = network(signed=signed)
    draws = np.random.default_rng(3)
    orders = {name: draws.permutation(values.size) for name, values in found.values.items()}
    scores = found.scores(orders)
    for name, values in scores.items():
        assert np.array_equal(values.reshape(-1)[orders[name]], found.values[name])
    again, read = found.orders(scores), found.read(found.packed(orders))
    assert len(found.packed(orders)) == found.bytes
    assert all(np.array_equal(again[n], orders[n]) and np.array_equal(read[n], orders[n]) for n in orders)
    scores["6.weight"][0, 0] = np.nan
    with pytest.raises(PayloadError, match=r"scores of 6\.weight hold NaN or infinity; lower learning-rate"):
        found.orders(scores)


def test_the_gradient_goes_straight_through() -> None:
    """One step of plain SGD on two layers against dL/ds = dL/d(theta m) theta sign(s), worked out without masks in the way."""
    found = Supermask.of(plain := nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 3)), 0.5, True, 5)
    scores = found.scores(found.first)
    x, y = torch.randn(6, 12, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 0, 1, 2])
    weights = [torch.from_numpy(found.state(found.first)[f"{i}.weight"]).requires_grad_() for i in (1, 3)]
    loss = made().loss((x @ weights[0].T).relu() @ weights[1].T, y)
    slopes = torch.autograd.grad(loss, weights)
    hook = ScoreHook(found, scores)
    done = fit(plain, x, y, Plan(1, 6, 0.1), torch.Generator().manual_seed(0), [hook])
    assert done.loss == pytest.approx(loss.item(), rel=1e-5)
    for name, slope in zip(scores, slopes, strict=True):
        wanted = scores[name] - 0.1 * slope.numpy() * found.weights[name] * np.sign(scores[name])
        np.testing.assert_allclose(hook.scores[name], wanted, rtol=1e-4, atol=1e-6)
        assert not np.array_equal(hook.scores[name], scores[name])
    assert all(not parameter.any() for name, parameter in plain.named_parameters() if name.endswith("bias"))


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.layer = nn.Embedding(4, 3), nn.Linear(3, 2)


def test_what_is_neither_ranked_nor_frozen_is_refused() -> None:
    with pytest.raises(SettingError, match="trains 'table.weight', and scores are of weights of linear layers and convol"):
        ranked(Odd())
    model = Odd()
    model.table.requires_grad_(False)
    found = Supermask.of(model, 0.5, False, 0)
    assert ranked(model) == ("layer.weight",)
    assert np.array_equal(found.state(found.first)["table.weight"], model.table.weight.numpy()), "stays as it was built"
    model.layer.weight.requires_grad_(False)
    with pytest.raises(SettingError, match="trains no weights of linear layers"):
        ranked(model)

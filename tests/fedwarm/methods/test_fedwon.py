"""FedWon: what it presets, adaptive clipping by hand, and the limits in which it is FedAvg."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from fedwarm.catalogue import parse
from fedwarm.core.seeds import generator
from fedwarm.launch.preflight import check_run
from fedwarm.methods.fedwon import AdaptiveClip, FedWon, Used, unit_norms
from fedwarm.models import Model, build_model, to_input
from fedwarm.norms import normalising
from fedwarm.norms.standardised_weights import GAMMA, StandardisedConv2d
from fedwarm.quantize.surgery import attach, master
from fedwarm.settings.fields import SettingError, Value
from fedwarm.training.loop import fit
from fedwarm.training.plan import Plan
from tests.runs import run, same

SMALL: dict[str, Value] = {"num-server-rounds": 2, "local-epochs": 1, "data.max-examples": 40, "data.image-size": 16}


def classifier(**settings: Value) -> nn.Module:
    config = parse({"method": "fedwon", "model.name": "resnet8", **settings})
    return build_model(config.of(Model), 4, 8, 0)


def data(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 8, 8), generator=draws).to(torch.uint8), torch.randint(
        0, 4, (count,), generator=draws
    )


def test_the_classifier_has_no_normalisation_and_the_plain_nets_state() -> None:
    """Keys, shapes and so bytes are those of the same net without norms; a setting that is given goes before."""
    ours, plain = classifier(), classifier(**{"model.norm": "none"})
    assert not normalising(ours) and normalising(classifier(**{"model.norm": "group"}))
    assert {n: t.shape for n, t in ours.state_dict().items()} == {n: t.shape for n, t in plain.state_dict().items()}


def test_images_are_judged_one_by_one() -> None:
    model, (images, _) = classifier().eval(), data(5)
    with torch.no_grad():
        together, alone = model(to_input(images)), torch.cat([model(to_input(image[None])) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_a_batch_of_one_trains() -> None:
    model = classifier()
    before = copy.deepcopy(model.state_dict())
    fit(model, *data(1), Plan(1, 1, 0.01), generator(0), [AdaptiveClip(FedWon(clip=0.1))])
    assert all(t.isfinite().all() for t in model.state_dict().values())
    assert any(not torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_long_gradients_are_clipped_unit_by_unit() -> None:
    model, head = nn.Conv2d(2, 3, 1), nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, 4.0], [3.0, 4.0], [0.0, 0.0]])[:, :, None, None])
    model.weight.grad = torch.tensor([[6.0, 8.0], [0.3, 0.4], [1.0, 0.0]])[:, :, None, None]
    assert model.bias is not None
    model.bias.grad, head.weight.grad = torch.tensor([0.0, 0.0, 4.0]), torch.tensor([[300.0, 4.0]])
    AdaptiveClip(FedWon(clip=0.5)).gradient(nn.Sequential(model, head))
    torch.testing.assert_close(model.weight.grad.flatten(1), torch.tensor([[1.5, 2.0], [0.3, 0.4], [0.0005, 0.0]]))
    torch.testing.assert_close(model.bias.grad, torch.tensor([0.0, 0.0, 4.0]))
    torch.testing.assert_close(head.weight.grad, torch.tensor([[300.0, 4.0]]))


def test_gradients_behind_a_quantizer_are_clipped() -> None:
    """Of the weights that are trained, which a quantizer keeps beside those that it makes."""
    model = nn.Sequential(nn.Conv2d(2, 3, 1))
    attach(model, {"0": nn.Identity()}, {})
    kept = master(model[0])
    model(torch.ones(1, 2, 1, 1)).sum().mul(100).backward()
    AdaptiveClip(FedWon(clip=0.02)).gradient(model)
    assert kept.grad is not None
    assert (unit_norms(kept.grad) <= 0.02 * unit_norms(kept).clamp(min=1e-3) * (1 + 1e-5)).all()


@pytest.mark.parametrize("shape", [(4, 3, 2, 2), (4, 3, 1, 1)])
def test_a_units_norm_is_over_its_inputs(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = unit_norms(weight)
    assert found.shape == (4, *[1] * (len(shape) - 1))
    torch.testing.assert_close(found.flatten(), torch.stack([row.square().sum().sqrt() for row in weight]))


def test_no_gradient_stays_none_and_zero_stays_zero() -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1))
    model[0].weight.grad = torch.zeros(2, 2, 1, 1)
    AdaptiveClip(FedWon(clip=0.1)).gradient(model)
    assert model[1].weight.grad is None and not model[0].weight.grad.any()


def test_used_weights_are_sent_and_the_classifier_stays_what_it_is() -> None:
    model, (images, _) = classifier().eval(), data(5)
    with torch.no_grad():
        before = model(to_input(images))
        Used(FedWon(average="used")).finish(model)
        torch.testing.assert_close(model(to_input(images)), before, rtol=1e-4, atol=1e-5)
    for part in model.modules():
        if isinstance(part, StandardisedConv2d):
            torch.testing.assert_close(unit_norms(part.weight).flatten(), torch.full((part.out_channels,), GAMMA))


@pytest.mark.parametrize("settings", [{"model.name": "logistic"}, {"model.name": "cnn", "model.norm": "none"}], ids=str)
def test_without_convolutions_or_their_norm_it_is_fedavg_bit_for_bit(tmp_path: Path, settings: dict[str, Value]) -> None:
    ours, plain = (run(method, tmp_path / method, {**SMALL, **settings}) for method in ("fedwon", "fedavg"))
    assert same(ours.model, plain.model)


def test_it_is_fedavg_on_standardised_weights_bit_for_bit(tmp_path: Path) -> None:
    ours = run("fedwon", tmp_path / "ours", SMALL)
    plain = run("fedavg", tmp_path / "plain", {**SMALL, "model.norm": "standardised-weights"})
    assert same(ours.model, plain.model) and ours.results["totals"]["bytes_up"] == plain.results["totals"]["bytes_up"]


def test_batch_normalisation_is_refused_and_other_kinds_are_not() -> None:
    for given in ({"model.name": "resnet20", "model.norm": "own"}, {"model.name": "resnet8", "model.norm": "batch"}):
        with pytest.raises(SettingError, match=r"layer '.*' of the classifier is batch normalisation, and method 'fedwon'"):
            check_run({"method": "fedwon", "data.image-size": 16, **given}, 2)
    check_run({"method": "fedwon", "data.image-size": 16, "model.name": "resnet20"}, 2)

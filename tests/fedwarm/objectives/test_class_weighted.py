"""Class weights against their closed form: PyTorch's own weighted loss, and examples copied until classes are equal."""

from __future__ import annotations

import pytest
import torch

from fedwarm.catalogue import parse
from fedwarm.core.seeds import generator
from fedwarm.models.cnn import cnn
from fedwarm.objectives.class_weighted import ClassWeighted, Weighted, weights
from fedwarm.rounds.fits import refuse_unfit
from fedwarm.settings.fields import SettingError
from fedwarm.training.loop import Plan, fit


def test_weights_are_inverse_counts_of_mean_one() -> None:
    labels = torch.tensor([0, 0, 0, 0, 0, 0, 3, 3, 2, 2])
    found = weights(labels, 1.0)
    assert torch.allclose(found, torch.tensor([10 / 18, 0.0, 10 / 6, 10 / 6]))
    assert torch.allclose(found[labels].mean(), torch.tensor(1.0))
    assert torch.allclose(weights(labels, 0.0), torch.tensor([1.0, 0.0, 1.0, 1.0]))


def test_a_step_is_that_of_the_weighted_loss() -> None:
    """One step on all examples: the gradient of the weighted mean, which is that of each class's mean."""
    images = torch.randint(0, 256, (9, 3, 8, 8), generator=generator(1)).to(torch.uint8)
    labels = torch.tensor([0] * 6 + [1] * 2 + [2])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = cnn(3, 8)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = (images.float() - 127.5) / 127.5
    loss = sum(torch.nn.functional.cross_entropy(model(x[labels == c]), labels[labels == c]) for c in range(3)) / 3
    wanted = torch.autograd.grad(loss, list(model.parameters()))
    fit(model, images, labels, Plan(1, 9, 0.5), generator(2), [Weighted(ClassWeighted())])
    for (name, parameter), gradient in zip(model.named_parameters(), wanted, strict=True):
        assert torch.allclose(parameter, start[name] - 0.5 * gradient, atol=1e-5)


def test_a_task_that_gives_no_answers_in_classes_is_refused() -> None:
    refuse_unfit(parse({"method": "fedavg", "objective": "class-weighted"}))
    with pytest.raises(SettingError, match="'class_weighted' works on a model's answers alone, and task = 'contrast' gives none"):
        refuse_unfit(parse({"method": "fedavg", "objective": "class-weighted", "task": "contrast"}))

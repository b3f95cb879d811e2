"""Tasks written on the interface beside classification: a contrast of two views without labels, and a mixture of models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedwarm.catalogue import parse
from fedwarm.models import Model, build_model
from fedwarm.privacy.mechanisms.dp_sgd.gradient import Mechanism
from fedwarm.settings.fields import SettingError
from fedwarm.settings.kinds import TASKS
from fedwarm.tasks import made, task_of
from fedwarm.training.evaluate import correct
from fedwarm.training.loop import fit
from fedwarm.training.plan import Plan
from tests.contracts import test_tasks

MODULE = "tasks_from_elsewhere"
CODE = '''
from dataclasses import dataclass
import torch
import torch.nn.functional as F
from fedwarm.settings.fields import Group, setting
from fedwarm.tasks import Task

@dataclass(frozen=True)
class Views(Group, prefix="views"):
    width: int = setting(8, "width of a vector", low=1)

class Contrast(Task):
    """Two noisy views of an image are nearer to each other than to those of others."""

    settings, scope = Views, "batch"

    def __init__(self, settings=Views()):
        self.chosen = settings

    def width(self, classes):
        return self.chosen.width

    def outputs(self, model, inputs, draws):
        if draws is None:
            return model(inputs)
        views = [inputs + 0.1 * torch.randn(inputs.shape, generator=draws) for _ in range(2)]
        return model(torch.cat(views))

    def loss(self, outputs, labels):
        z = F.normalize(outputs)
        near = (z @ z.T / 0.5).masked_fill(torch.eye(len(z), dtype=torch.bool), -torch.inf)
        return F.cross_entropy(near, torch.arange(len(z)).roll(len(z) // 2))

    def right(self, outputs, labels):
        return 0
'''


@pytest.fixture
def contrast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / f"{MODULE}.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    return f"{MODULE}:Contrast"


def test_classification_is_cross_entropy_and_the_largest_logit() -> None:
    task, logits, labels = made(), torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]]), torch.tensor([1, 2])
    assert torch.equal(task.loss(logits, labels), F.cross_entropy(logits, labels))
    assert task.right(logits, labels) == 1 and task.width(7) == 7 and task.scope == "example"


@pytest.mark.parametrize("check", test_tasks.CHECKS, ids=lambda check: check.__name__)
def test_a_contrast_of_two_views_keeps_the_contract(contrast: str, check: test_tasks.Check) -> None:
    check(TASKS, contrast)


def test_it_learns_without_labels_and_has_settings_of_its_own(contrast: str) -> None:
    run = parse({"task": contrast, "views.width": 5, "local-epochs": 20, "batch-size": 12, "optimiser": "adamw"}).run
    width, (images, labels) = task_of(run).width(3), test_tasks.data()
    assert width == 5
    first, last, other = (build_model(Model(), width, 8, 0) for _ in range(3))
    begun = fit(first, images, labels, Plan.of(run, epochs=1), torch.Generator().manual_seed(1))
    ended = fit(last, images, labels, Plan.of(run), torch.Generator().manual_seed(1))
    fit(other, images, 2 - labels, Plan.of(run), torch.Generator().manual_seed(1))
    assert ended.loss < begun.loss
    assert all(torch.equal(a, b) for a, b in zip(last.parameters(), other.parameters(), strict=True))


def test_what_looks_at_examples_together_is_not_private(contrast: str) -> None:
    plan, model = Plan(1, 6, 0.1, task=contrast), build_model(Model(), 8, 8, 0)
    with pytest.raises(SettingError, match="dp-sgd does not cover Contrast"):
        fit(model, *test_tasks.data(), plan, torch.Generator(), private=Mechanism(1.0, 1.0))


class Mixture(nn.Module):
    """Experts behind a gate: log p(y | x) = logsumexp_k (log pi_k + log p_k)."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(build_model(Model(name="logistic"), 3, 8, seed) for seed in (1, 2))
        self.gate = build_model(Model(name="logistic"), 2, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.stack([expert(x).log_softmax(1) for expert in self.experts], 1)
        return (self.gate(x).log_softmax(1)[:, :, None] + parts).logsumexp(1)


def test_a_mixture_of_models_trains_by_its_marginal_likelihood() -> None:
    model, (images, labels) = Mixture(), test_tasks.data()
    with torch.no_grad():
        log = model(images / 127.5 - 1)
    torch.testing.assert_close(made().loss(log, labels), -log[torch.arange(len(labels)), labels].mean())
    fit(model, images, labels, Plan(60, 12, 0.02), torch.Generator().manual_seed(0))
    assert correct(model, images, labels) == len(labels)

"""Losses of two views against closed forms, slow loops and finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fedwarm.relevance import idle
from fedwarm.settings.fields import SettingError
from fedwarm.tasks.contrast import Contrast, Contrasting
from fedwarm.tasks.contrast.losses import infonce, nt_xent, simsiam, spectral, supcon

T = 0.5


def vectors(count: int, width: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(2 * count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def one_group(count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.int64)


@pytest.mark.parametrize(("count", "value"), [(4, 1.945910), (128, 5.541264)])
def test_equal_vectors_leave_the_logarithm_of_the_candidates(count: int, value: float) -> None:
    found = nt_xent(torch.ones(2 * count, 3, dtype=torch.float64), one_group(count), T)
    assert found.losses.mean().item() == pytest.approx(math.log(2 * count - 1), abs=1e-12) == pytest.approx(value, abs=1e-6)
    assert set(found.candidates.tolist()) == {2 * count - 1}


def test_views_alike_and_all_else_apart() -> None:
    assert nt_xent(torch.eye(4).double().repeat(2, 1), one_group(4), T).losses.mean().item() == pytest.approx(0.594438, abs=1e-6)


def test_neither_the_order_of_views_nor_that_of_images_matters() -> None:
    found, order = vectors(5), torch.randperm(5, generator=torch.Generator().manual_seed(1))
    value = nt_xent(found, one_group(5), T).losses.mean()
    first, second = found.chunk(2)
    for other in (torch.cat([second, first]), torch.cat([first[order], second[order]])):
        torch.testing.assert_close(nt_xent(other, one_group(5), T).losses.mean(), value, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["nt_xent", "infonce", "supcon"])
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    loss = {"nt_xent": nt_xent, "infonce": infonce, "supcon": supcon}[name]
    groups = torch.tensor([0, 0, 1])
    assert torch.autograd.gradcheck(lambda v: loss(v, groups, T).losses.mean(), vectors(3).requires_grad_(), rtol=1e-5)


def test_groups_are_contrasted_each_for_itself() -> None:
    """Against a slow loop; one group is all, and alone in its group an image adds nothing."""
    found, groups = vectors(5), torch.tensor([0, 1, 0, 1, 2])
    losses = nt_xent(found, groups, T).losses
    unit = torch.nn.functional.normalize(found, dim=1)
    for i in range(10):
        near = [j for j in range(10) if j != i and groups[j % 5] == groups[i % 5]]
        scores = torch.stack([unit[i] @ unit[j] / T for j in near])
        slow = scores.logsumexp(0) - unit[i] @ unit[(i + 5) % 10] / T
        torch.testing.assert_close(losses[i], slow)
    assert losses[4] == losses[9] == 0
    alone = nt_xent(found, torch.arange(5), T)
    assert not alone.losses.abs().max() and set(alone.candidates.tolist()) == {1}


def test_no_pair_of_two_groups_enters_a_denominator() -> None:
    found, groups = vectors(4), torch.tensor([0, 0, 1, 1])
    moved = found.clone()
    moved[[2, 3, 6, 7]] = vectors(4, seed=9)[[2, 3, 6, 7]]
    for loss in (nt_xent, infonce):
        before, after = loss(found, groups, T).losses, loss(moved, groups, T).losses
        kept = [i for i in range(len(before)) if groups[i % 4] == 0]
        assert torch.equal(before[kept], after[kept])


def test_labels_that_are_all_equal_or_all_unlike() -> None:
    plain, given = Contrast(), Contrast(labels="conditional")
    found = vectors(4)
    none = torch.full((4,), -1)
    assert given.loss_of(found, one_group(4)) == given.loss_of(found, none) == plain.loss_of(found, torch.arange(4))
    assert given.loss_of(found, torch.arange(4)) == 0


def test_same_labels_as_positives_by_a_slow_loop() -> None:
    found, labels = vectors(4), torch.tensor([0, 0, 1, -1])
    losses, unit, two = supcon(found, labels, T).losses, torch.nn.functional.normalize(found, dim=1), labels.repeat(2)
    for i in range(8):
        chances = torch.stack([unit[i] @ unit[k] / T for k in range(8) if k != i]).logsumexp(0)
        positives = [k for k in range(8) if k != i and (k % 4 == i % 4 or (two[k] == two[i] and two[i] >= 0))]
        slow = torch.stack([chances - unit[i] @ unit[p] / T for p in positives]).mean()
        torch.testing.assert_close(losses[i], slow)


@pytest.mark.parametrize("loss", ["infonce", "spectral", "simsiam"])
def test_labels_as_positives_are_refused_where_no_loss_takes_them_so(loss: str) -> None:
    with pytest.raises(SettingError, match=f"'supcon' is for nt_xent alone, not for {loss}"):
        Contrasting(Contrast(loss=loss, labels="supcon"))


def test_labels_have_no_say_without_negatives() -> None:
    given = {"fed-simclr.labelled": 0.5, "contrast.loss": "simsiam", "contrast.labels": "conditional"}
    assert "contrast.labels" in idle(given, given, "fed_simclr")
    assert "contrast.labels" not in idle(given, {**given, "contrast.loss": "spectral"}, "fed_simclr")


def test_spectral_by_numpy() -> None:
    found, groups = vectors(4), torch.tensor([0, 0, 0, 1])
    x, y = found.numpy()[:4], found.numpy()[4:]
    apart = [(x[i] @ y[j]) ** 2 for i in range(3) for j in range(3) if i != j]
    assert spectral(found, groups).item() == pytest.approx(-2 * np.mean(np.sum(x * y, 1)) + np.mean(apart), abs=1e-6)


def test_simsiam_by_numpy_and_its_target_has_no_gradient() -> None:
    known, guessed = vectors(4).requires_grad_(), vectors(4, seed=1).requires_grad_()
    x, p = (v.detach().numpy() / np.linalg.norm(v.detach().numpy(), axis=1, keepdims=True) for v in (known, guessed))
    value = -0.5 * (np.mean(np.sum(p[:4] * x[4:], 1)) + np.mean(np.sum(p[4:] * x[:4], 1)))
    loss = simsiam(known, guessed)
    assert loss.item() == pytest.approx(value, abs=1e-6)
    loss.backward()
    assert known.grad is None and guessed.grad is not None


def test_small_temperatures_in_half_precision_stay_finite() -> None:
    found = vectors(8).half()
    assert nt_xent(found, one_group(8), 0.02).losses.isfinite().all()
    assert nt_xent(found, one_group(8), 0.02).losses.dtype == torch.float32

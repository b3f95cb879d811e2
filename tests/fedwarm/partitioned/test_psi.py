"""What psi does: gradients by differences, closed forms of its optima, affine maps, and what cannot be learned."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedwarm.partitioned.affine import bases, maps, warped
from fedwarm.partitioned.networks import Predictor, gradient
from fedwarm.partitioned.psi import KNOWN, THROUGH_WEIGHTS, Psi, numbers, text_of
from fedwarm.settings.fields import SettingError

SHAPE = (3, 8, 8)


def images(count: int = 6) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(1)
    rough = torch.randn(count, *SHAPE, generator=draws, dtype=torch.float64)
    smooth = torch.nn.functional.avg_pool2d(rough, 3, 1, 1)
    return smooth, torch.randint(4, (count,), generator=draws)


def network() -> nn.Module:
    draws = torch.Generator().manual_seed(2)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 4)).double().requires_grad_(False)
    for p in net.parameters():
        p.copy_(torch.randn(p.shape, generator=draws, dtype=torch.float64))
    return net


def slope(psi: Psi, values: Tensor, x: Tensor, labels: Tensor) -> tuple[Tensor, float]:
    return gradient(network(), psi, values, x, labels, torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    "names", [["affine"], ["mask"], ["temperature"], ["noise-var"], ["input-noise"], ["mask", "temperature"]]
)
def test_the_gradient_is_that_of_central_differences(names: list[str]) -> None:
    psi, (x, labels) = Psi(names, SHAPE), images()
    values = torch.from_numpy(psi.first) * 0.7
    found, _ = slope(psi, values, x, labels)
    for place in (0, len(values) // 2, len(values) - 1):
        step = torch.zeros_like(values)
        step[place] = 1e-6
        up, down = (slope(psi, values + side * step, x, labels)[1] for side in (1, -1))
        assert float(found[place]) == pytest.approx((up - down) / 2e-6, rel=1e-5, abs=1e-8)
    assert found.abs().max() > 1e-4


def test_the_likelihood_is_averaged_over_draws_before_its_log() -> None:
    """By a plain loop over the same draws, and its gradient by central differences."""
    psi, (x, labels), net = Psi(["affine", "temperature"], SHAPE), images(), network()
    values = torch.from_numpy(psi.first) * 0.7

    def told(at: Tensor) -> tuple[Tensor, float]:
        return gradient(net, psi, at, x, labels, torch.Generator().manual_seed(3), samples=3)

    draws, mean = torch.Generator().manual_seed(3), torch.zeros(6, dtype=torch.float64)
    for _ in range(3):
        outputs = psi.outputs(net(psi.inputs(x, values, draws)), values)
        mean += outputs.softmax(1)[torch.arange(6), labels] / 3
    found, loss = told(values)
    assert loss == pytest.approx(float(-mean.log().mean()), abs=1e-12)
    step = torch.zeros_like(values)
    step[2] = 1e-6
    assert float(found[2]) == pytest.approx((told(values + step)[1] - told(values - step)[1]) / 2e-6, rel=1e-5)


def test_the_mean_over_equal_clients_is_the_pooled_gradient() -> None:
    psi, (x, labels) = Psi(["mask", "temperature"], SHAPE), images(8)
    values = torch.from_numpy(psi.first)
    parts = [slope(psi, values, x[rows], labels[rows])[0] for rows in torch.arange(8).split(2)]
    assert torch.allclose(torch.stack(parts).mean(0), slope(psi, values, x, labels)[0], atol=1e-12, rtol=0)


def test_the_noise_variance_is_the_mean_square_of_residuals() -> None:
    """Its optimum is ln of the mean of squares, here by the root of the gradient."""
    psi, draws = Psi(["noise-var"], (5,)), torch.Generator().manual_seed(0)
    outputs, wanted = (torch.randn(40, 2, generator=draws, dtype=torch.float64) for _ in range(2))
    best = (outputs - wanted).square().mean().log().reshape(1)
    found, _ = gradient(nn.Identity(), psi, best, outputs, wanted, draws)
    assert abs(float(found)) < 1e-12
    low = minimize_scalar(lambda p: float(psi.loss(outputs, wanted, torch.tensor([p]))), bounds=(-3, 3), method="bounded")
    assert low.x == pytest.approx(float(best), abs=1e-4)


def test_the_temperature_is_that_of_scaling_after_training() -> None:
    psi, draws = Psi(["temperature"], (5,)), torch.Generator().manual_seed(0)
    logits = 6 * torch.randn(300, 3, generator=draws, dtype=torch.float64)
    labels = torch.where(torch.rand(300, generator=draws) < 0.7, logits.argmax(1), torch.randint(3, (300,), generator=draws))
    values = torch.zeros(1, dtype=torch.float64)
    for _ in range(400):
        values = values - gradient(nn.Identity(), psi, values, logits, labels, draws)[0]
    scaled = minimize_scalar(lambda t: float(cross_entropy(logits / t, labels)), bounds=(0.1, 50), method="bounded")
    assert float(values.exp()) == pytest.approx(scaled.x, rel=1e-4) and scaled.x > 1.5


def test_no_width_is_the_identity_and_a_quarter_turn_a_quarter_turn() -> None:
    x, _ = images()
    names = ("rotation",)
    same = maps(torch.zeros(6, dtype=torch.float64), tuple(KNOWN["affine"].names), torch.rand(6, 6, dtype=torch.float64))  # type: ignore[attr-defined]
    assert torch.equal(same, torch.eye(3, dtype=torch.float64).expand(6, 3, 3))
    turned = warped(x, maps(torch.tensor([torch.pi / 2], dtype=torch.float64), names, torch.ones(6, 1, dtype=torch.float64)))
    inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    errors = [float((turned - torch.rot90(x, k, (2, 3)))[inner].abs().max()) for k in (1, -1)]
    assert min(errors) < 1e-3 < max(errors)
    wide = [maps(torch.tensor([w], dtype=torch.float64), names, torch.ones(1, 1, dtype=torch.float64)) for w in (torch.pi, 9.0)]
    assert torch.equal(*wide)


def test_maps_are_the_exponential_of_their_generators() -> None:
    """By its power series, summed in a plain loop."""
    names, widths = ("shift-x", "scale-y", "shear"), torch.tensor([0.2, 0.3, -0.4], dtype=torch.float64)
    draws = torch.tensor([[0.5, -1.0, 0.7]], dtype=torch.float64)
    exponent = sum(d * w * g for d, w, g in zip(draws[0], widths, bases(names), strict=True))
    total = term = torch.eye(3, dtype=torch.float64)
    for k in range(1, 20):
        term = term @ exponent / k
        total = total + term
    assert torch.allclose(maps(widths, names, draws)[0], total, atol=1e-12)


@pytest.mark.parametrize("name", THROUGH_WEIGHTS)
def test_what_acts_through_weights_alone_is_refused(name: str) -> None:
    with pytest.raises(SettingError, match="through the weights alone"):
        Psi([name], SHAPE)


def test_unknown_names_and_wrong_inputs_are_refused() -> None:
    with pytest.raises(SettingError, match="no hyperparameter 'colour'"):
        Psi(["colour"], SHAPE)
    with pytest.raises(SettingError, match="affine maps are of images"):
        Psi(["affine"], (20,))
    for wrong in ("1,a", "nan"):
        with pytest.raises(SettingError, match=r"list of numbers|not finite"):
            numbers(wrong)
    assert numbers(text_of(np.array([0.25, -1e-3]))) == [0.25, -1e-3] and numbers("") == []


def test_predictions_are_means_of_probabilities_and_the_same_each_time() -> None:
    psi, (x, _) = Psi(["affine"], SHAPE), images()
    values = torch.full((6,), 0.3, dtype=torch.float64)
    made = Predictor(network(), psi, values, 3, lambda: torch.Generator().manual_seed(5))
    draws = torch.Generator().manual_seed(5)
    slow = sum(network()(psi.inputs(x, values, draws)).softmax(1) for _ in range(3)) / 3
    assert torch.allclose(made(x).exp(), slow, atol=1e-12) and torch.equal(made(x), made(x))

"""Steps of an adapter's optimiser: what overflows is left out, what diverges ends at once."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from fedwarm.diffusion.settings import Diffusion
from fedwarm.diffusion.steps import FIRST_SCALE, GROWN_AFTER, LOOKED_AT, Scaling, adamw, descend

CPU = torch.device("cpu")


def descended(losses: list[float], dtype: torch.dtype) -> tuple[nn.Parameter, list[float]]:
    """A parameter at 1, after a step along each of some slopes; and the learning rates of the steps that were made."""
    parameter = nn.Parameter(torch.ones(3))
    optimiser = torch.optim.SGD([parameter], lr=0.25)
    rates: list[float] = []
    optimiser.register_step_post_hook(lambda *_: rates.append(optimiser.param_groups[0]["lr"]))
    settings = dataclasses.replace(Diffusion(), lora_steps=len(losses))

    def loss_of(step: int) -> Tensor:
        return losses[step] * parameter.sum()

    descend(optimiser, settings, loss_of, Scaling(CPU, dtype))
    return parameter, rates


def test_a_step_that_overflows_in_float16_is_left_out_and_the_others_are_made() -> None:
    finite, rates = descended([1.0, 2.0, 1.0], torch.float16)
    mixed, some = descended([1.0, float("inf"), 1.0], torch.float16)
    assert len(rates) == 3 and len(some) == 2
    assert bool(torch.isfinite(mixed).all()) and bool((mixed > finite).all())
    assert torch.allclose(mixed, 1 - torch.tensor(sum(some)))


def test_the_factor_of_float16_changes_no_exact_gradient() -> None:
    slopes = [1.0, 0.5, 2.0]
    assert torch.equal(descended(slopes, torch.float16)[0], descended(slopes, torch.float32)[0])


def test_what_overflows_at_any_factor_ends_with_what_to_set() -> None:
    with pytest.raises(FloatingPointError, match=r"set diffusion\.precision='bf16'"):
        descended([float("inf")] * 60, torch.float16)


def test_what_overflows_now_and_then_neither_ends_a_tuning_nor_sinks_its_factor() -> None:
    """One step in twelve, as of one bad picture in fifty in batches of four; then the factor grows back."""
    scaling, parameter = Scaling(CPU, torch.float16), nn.Parameter(torch.ones(3))
    optimiser = torch.optim.SGD([parameter], lr=1e-3)

    def step(slope: float) -> bool:
        optimiser.zero_grad()
        scaling.backward(slope * parameter.sum())
        return scaling.step(optimiser)

    made = [step(float("inf") if i % 12 == 0 else 1.0) for i in range(600)]
    assert made == [i % 12 != 0 for i in range(600)] and scaling.scaler.get_scale() == 1.0
    assert all(step(1.0) for _ in range(16 * GROWN_AFTER)) and scaling.scaler.get_scale() == FIRST_SCALE


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_loss_that_is_not_finite_ends_the_tuning_within_fifty_steps(dtype: torch.dtype) -> None:
    with pytest.raises(FloatingPointError, match=rf"at step {LOOKED_AT + 1}; lower diffusion\.lora-learning-rate"):
        descended([1.0] + [float("nan")] * (2 * LOOKED_AT), dtype)


def test_an_adapters_optimiser_is_one_kernel_on_a_gpu_and_torchs_own_elsewhere() -> None:
    """On a CPU bits stay as they are; the kernel, which a CPU has too, takes the same steps."""
    draws = torch.Generator().manual_seed(0)
    first, gradients = torch.randn(4, 5, generator=draws), torch.randn(6, 4, 5, generator=draws)
    ours, kernel = torch.nn.Parameter(first.clone()), torch.nn.Parameter(first.clone())
    settings = Diffusion(lora_learning_rate=1e-2)
    mine, fused = adamw([ours], settings), torch.optim.AdamW([kernel], lr=1e-2, fused=True)
    assert mine.defaults["fused"] is False
    for gradient in gradients:
        for parameter, optimiser in ((ours, mine), (kernel, fused)):
            parameter.grad = gradient.clone()
            optimiser.step()
    torch.testing.assert_close(ours, kernel, rtol=1e-6, atol=1e-7)
    assert not torch.allclose(ours, first, atol=1e-3)


def test_on_a_gpu_it_asks_for_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(torch.optim, "AdamW", lambda parameters, lr, fused: asked.append(fused))
    for kinds in (("cuda", "cuda"), ("cuda", "cpu"), ("cpu",)):
        adamw([SimpleNamespace(device=SimpleNamespace(type=kind)) for kind in kinds], Diffusion())  # type: ignore[misc]
    assert asked == [True, False, False]

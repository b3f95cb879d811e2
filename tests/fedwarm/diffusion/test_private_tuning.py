"""Tuning an adapter privately: all of it moves and nothing else, by gradients of single images, clipped and noised."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedwarm.core.seeds import generator
from fedwarm.diffusion.foundation import Foundation, load_foundation
from fedwarm.diffusion.lora import adapter_state, attached, load_adapter, trainable
from fedwarm.diffusion.settings import Diffusion
from fedwarm.diffusion.tuning import Examples, Tuning, private_gradient, to_foundation, tune_adapter
from fedwarm.privacy.mechanisms.dp_sgd.account import DpSgd
from fedwarm.privacy.mechanisms.dp_sgd.gradient import Mechanism, source_of
from fedwarm.training.examples import Batched, Singly, at_once, one_by_one

Pictures = tuple[Tensor, Tensor]
Digest = Callable[[nn.Module], str]
Tune = Callable[..., dict[str, Tensor]]
Fill = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def noisy(noise: float = 1.0, clip: float = 1.0, chunk: int = 8, key: int = 0) -> Mechanism:
    return Mechanism(clip, noise, chunk, source_of(DpSgd(entropy="seeded"), 0, "adapter", key))


@pytest.fixture
def tune(foundation: Foundation, settings: Diffusion, pictures: Pictures, sentences: list[str]) -> Tune:
    """Tune on the rendered digits; keyword arguments replace settings."""

    def run(private: Mechanism, on: Foundation = foundation, **changes: Any) -> dict[str, Tensor]:
        return tune_adapter(Tuning(on, *pictures, sentences, dataclasses.replace(settings, **changes), 0, 0), private)

    return run


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_one_private_step_moves_all_of_the_adapter_and_nothing_else(
    foundation: Foundation, settings: Diffusion, tune: Tune, digest: Digest, noise: float
) -> None:
    """Without noise, too: then it is the images that B follows. A has no gradient while B is 0; AdamW's decay alone moves it."""
    unet = foundation.pipe.unet
    before = digest(unet)
    with attached(unet, settings, 0, "lora-init", 0):
        first = adapter_state(unet)
    state = tune(lora_steps=1, private=noisy(noise))
    assert state.keys() == first.keys()
    for name, matrix in state.items():
        assert "lora_B" in name or noise or torch.allclose(matrix, 0.99999 * first[name], rtol=1e-5)
        assert bool((matrix != first[name]).any()), name
    assert digest(unet) == before
    assert not any(p.requires_grad or p.grad is not None or hasattr(p, "grad_sample") for p in unet.parameters())
    assert not unet.training


@pytest.mark.parametrize("singly", [at_once, one_by_one, None], ids=["vmap", "loop", "batch"])
def test_gradients_are_those_of_one_image_at_a_time(
    foundation: Foundation, settings: Diffusion, random_adapter: Fill, singly: Singly | None
) -> None:
    """By the loss that private tuning uses, against plain backward passes of a U-Net that peft has changed, in float64."""
    unet, count = copy.deepcopy(foundation.pipe.unet).double(), 5
    latents = torch.randn(count, 4, 8, 8, generator=generator(0, "images")).double()
    labels, context = torch.arange(count) % 3, foundation.embed(["one", "two", "three", ""]).double()
    seen: list[tuple[Singly, Any, tuple[Tensor, ...]]] = []

    class Listening(Mechanism):
        """Says what it is asked to make private."""

        def gradient(self, *given: Any, **named: Any) -> Callable[..., None]:
            own: Singly = given[-1]
            return lambda loss, examples: seen.append((own, loss, examples))

    with attached(unet, settings, 0, "gradients"):
        load_adapter(unet, random_adapter(adapter_state(unet)))
        weights = trainable(unet.double().train())
        mechanism = Listening(1.0, 1.0, 8, noisy().source)
        examples = Examples(foundation.pipe.scheduler, latents, labels, context)
        private_gradient(unet, examples, torch.optim.AdamW(weights.values()), settings, torch.float32, mechanism)(0)
        [(own, loss, drawn)] = seen
        assert len(drawn[0]) == count
        found = (singly or own)(loss, weights, drawn)
        assert isinstance(own, Batched) and (singly is not None or own.apart)
        for i in range(count):
            noise, time, caption, target = (t[i : i + 1] for t in drawn)
            F.mse_loss(unet(noise, time, caption).sample, target).backward()
            for name, p in weights.items():
                assert p.grad is not None and p.grad.norm() > 0
                assert (found[name][i] - p.grad).norm() <= 1e-6 * p.grad.norm()
                p.grad = None


def test_private_tuning_repeats_by_its_source_alone(tune: Tune) -> None:
    first = tune(private=noisy(), lora_steps=2)
    here = torch.get_rng_state()
    assert same(tune(private=noisy(), lora_steps=2), first)
    assert torch.equal(torch.get_rng_state(), here)
    assert not same(tune(private=noisy(key=1), lora_steps=2), first)
    assert not same(tune(private=Mechanism(1.0, 1.0), lora_steps=1), tune(private=Mechanism(1.0, 1.0), lora_steps=1))


@pytest.mark.long
@pytest.mark.parametrize(("chunk", "checkpoints"), [(1, False), (3, False), (8, True)])
def test_private_tuning_in_parts_or_with_checkpoints_is_the_same(tune: Tune, chunk: int, checkpoints: bool) -> None:
    whole = tune(private=noisy(0.0), lora_steps=2)
    other = tune(private=noisy(0.0, chunk=chunk), lora_steps=2, gradient_checkpointing=checkpoints)
    for name, matrix in whole.items():
        torch.testing.assert_close(other[name], matrix, rtol=1e-3, atol=1e-5)


def test_a_step_without_images_is_noise(tune: Tune) -> None:
    """One image of 24 is expected; with this source the only step has none, and every matrix still moves."""
    key = next(k for k in range(100) if not len(after_generator(noisy(key=k)).rows(24, 1)))
    quiet, loud = (tune(lora_steps=1, lora_batch_size=1, private=noisy(noise, key=key)) for noise in (0.0, 1.0))
    assert all(bool((quiet[name] == 0).all()) for name in quiet if "lora_B" in name)
    assert all(bool((loud[name] != 0).any()) for name in loud)


def after_generator(mechanism: Mechanism) -> Mechanism:
    """As private tuning leaves the source before its first step."""
    mechanism.generator()
    return mechanism


@torch.no_grad()
def fixed_loss(foundation: Foundation, images: Tensor, labels: Tensor, sentences: list[str]) -> float:
    """Mean noise-prediction loss over four draws of noise for each image, the same each time."""
    latents, draws = foundation.encode(to_foundation(images, 32)).repeat(4, 1, 1, 1), generator(0, "fixed-noise")
    examples = Examples(foundation.pipe.scheduler, latents, labels.repeat(4), foundation.embed([*sentences, ""]))
    *inputs, target = examples.noised(torch.arange(len(latents)), draws)
    return F.mse_loss(foundation.pipe.unet(*inputs).sample, target).item()


@pytest.mark.long
def test_private_tuning_learns_where_noise_is_low(
    foundation: Foundation, settings: Diffusion, tune: Tune, pictures: Pictures, sentences: list[str]
) -> None:
    before = fixed_loss(foundation, *pictures, sentences)
    state = tune(lora_steps=15, lora_learning_rate=1e-2, private=noisy(0.1, 0.1, 16))
    with attached(foundation.pipe.unet, settings, 0, "loss"):
        load_adapter(foundation.pipe.unet, state)
        assert fixed_loss(foundation, *pictures, sentences) < 0.95 * before


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_private_gradients_of_half_precision(settings: Diffusion, foundation: Foundation, precision: str) -> None:
    """As long as those of float32, whatever the loss was multiplied by on the way."""
    half = load_foundation(dataclasses.replace(settings, precision=precision), "cpu")
    gradients = []
    for on in (foundation, half):
        latents = torch.randn(4, 4, 8, 8, generator=generator(0, "half")).to(on.dtype)
        examples = Examples(on.pipe.scheduler, latents, torch.tensor([0, 1, 1, 0]), on.embed(["one", "two", ""]))
        with attached(on.pipe.unet, settings, 0, "half") as parameters:
            optimiser = torch.optim.AdamW(parameters)
            private_gradient(on.pipe.unet, examples, optimiser, settings, on.dtype, noisy(0.0, 1e6))(0)
            assert {p.grad.dtype for p in parameters if p.grad is not None} == {torch.float32}
            gradients.append(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]))
    exact, small = gradients
    assert F.cosine_similarity(exact, small, dim=0) > 0.99
    assert float(small.norm() / exact.norm()) == pytest.approx(1.0, abs=0.05)

"""What every family of foundations keeps to, on tiny pipelines of diffusers' own classes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fedwarm.core.compute import torch_threads
from fedwarm.core.seeds import generator
from fedwarm.diffusion.families import Family, family_of
from fedwarm.diffusion.foundation import Foundation, load_foundation
from fedwarm.diffusion.generate import Order, generate
from fedwarm.diffusion.lora import adapter_size, adapter_state, attached, load_adapter, save_adapter, trainable
from fedwarm.diffusion.sampling import make_scheduler, sample, start_latents
from fedwarm.diffusion.settings import Diffusion
from fedwarm.diffusion.tuners.hollowed.plan import cut_of
from fedwarm.diffusion.tuners.hollowed.settings import Hollowed
from fedwarm.diffusion.tuning import Examples, Tuning, private_gradient, tune_adapter
from fedwarm.privacy.mechanisms.dp_sgd.gradient import Mechanism
from fedwarm.settings.fields import SettingError
from fedwarm.settings.kinds import FAMILIES, SAMPLERS
from fedwarm.settings.registry import summary
from fedwarm.training.examples import one_by_one
from tests.families import PIPELINES, SENTENCES, write_pipeline

TWO = SENTENCES[:2]


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    with torch_threads(1):
        yield


@pytest.fixture(scope="module", params=PIPELINES)
def settings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Diffusion:
    folder = write_pipeline(request.param, tmp_path_factory.mktemp("family") / request.param)
    return Diffusion(
        foundation=str(folder), rank=2, alpha=4.0, lora_steps=3, lora_batch_size=2, lora_learning_rate=1e-3,
        scheduler="foundation", sample_steps=3, guidance=1.0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def foundation(settings: Diffusion) -> Foundation:
    return load_foundation(settings, "cpu")


@pytest.fixture
def tuning(foundation: Foundation, settings: Diffusion) -> Tuning:
    images = torch.randint(256, (4, 3, 32, 32), generator=generator(0, "family"), dtype=torch.uint8)
    return Tuning(foundation, images, torch.tensor([0, 1, 2, 0]), SENTENCES, settings, 0, 0)


@dataclass(frozen=True)
class Everyone(Mechanism):
    """All images take part; says what it is asked to make private."""

    seen: list[tuple[Any, Any, tuple[Tensor, ...]]] = field(default_factory=list)

    def gradient(self, *given: Any, **named: Any) -> Any:
        return lambda loss, examples: self.seen.append((given[-1], loss, examples))

    def rows(self, examples: int, batch_size: int) -> Tensor:
        return torch.arange(examples)

    def generator(self) -> torch.Generator:
        return generator(0, "noise of the steps")


def flat(found: dict[str, Tensor]) -> Tensor:
    """Gradients (b, numbers)."""
    return torch.cat([gradient.flatten(1).double() for gradient in found.values()], 1)


def rounding(loss: Any, weights: Any, drawn: tuple[Tensor, ...], wanted: Tensor) -> float:
    """How far a gradient is at most from its `wanted` one, in its own length, where its input is rounded by one place more."""
    noisy, far = drawn[0], [torch.zeros(1)]
    for seed in range(3):
        sign = 2 * torch.randint(2, noisy.shape, generator=generator(seed, "rounding")) - 1
        other = (noisy.float() * (1 + torch.finfo(noisy.dtype).eps * sign)).to(noisy.dtype)
        far.append((flat(one_by_one(loss, weights, (other, *drawn[1:]))) - wanted).norm(dim=1) / wanted.norm(dim=1))
    return float(torch.cat(far).max())


def strong(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Matrices that are seen in an image."""
    draws = generator(0, "strong")
    return {name: 0.3 * torch.randn(t.shape, generator=draws) for name, t in state.items()}


def plain(settings: Diffusion) -> Any:
    """The pipeline as diffusers alone reads it."""
    import diffusers

    index = json.loads((Path(settings.foundation) / "model_index.json").read_text())
    nothing = {name: None for name, entry in index.items() if entry == [None, None]}
    pipe = diffusers.DiffusionPipeline.from_pretrained(settings.foundation, **nothing)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def theirs(pipe: Any, foundation: Foundation, settings: Diffusion, seeds: Sequence[int] = (0, 1)) -> Tensor:
    """diffusers' own images (2, 3, 32, 32) in 0 .. 255, from the same noise."""
    latents = torch.cat([start_latents(foundation, seed) for seed in seeds])
    drawn = pipe(
        TWO, height=32, width=32, num_inference_steps=settings.sample_steps, guidance_scale=settings.guidance, latents=latents,
        output_type="pt",
    )  # fmt: skip
    return 255 * torch.as_tensor(drawn.images)


@pytest.mark.parametrize("name", FAMILIES.own())
def test_a_family_says_what_it_is(name: str) -> None:
    family = FAMILIES.load(name)
    assert isinstance(family, Family) and summary(family) and family.licence and set(family.pipelines) <= {*PIPELINES}
    assert all(family_of(pipeline) is family for pipeline in family.pipelines)
    assert len(family.encoders) == len(family.tokenizers) and len(set(family.parts)) == len(family.parts)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("sampler", SAMPLERS.own())
def test_images_are_those_that_diffusers_draws(
    foundation: Foundation, settings: Diffusion, sampler: str, guidance: float
) -> None:
    chosen = replace(settings, scheduler=sampler, guidance=guidance)
    if foundation.family.flow and not getattr(SAMPLERS.load(sampler), "flows", False):
        with pytest.raises(
            SettingError, match=f"'{sampler}' knows no straight paths from noise, .* choose one of dpm, foundation"
        ):
            load_foundation(chosen, "cpu")
        return
    pipe = plain(settings)
    pipe.scheduler = make_scheduler(foundation, sampler)
    assert (sample(foundation, TWO, range(2), chosen, 32) - theirs(pipe, foundation, chosen)).abs().max() <= 1


def test_only_the_adapter_moves_and_the_seed_decides(foundation: Foundation, settings: Diffusion, tuning: Tuning) -> None:
    before = [p.clone() for model in foundation.models for p in model.parameters()]
    state, again = tune_adapter(tuning), tune_adapter(tuning)
    assert all(map(torch.equal, [p for model in foundation.models for p in model.parameters()], before))
    assert all(torch.equal(state[name], again[name]) for name in state)
    assert sum(t.numel() for t in state.values()) == adapter_size(foundation.net, settings.rank, settings.targets)
    assert any(t.abs().max() > 0 for name, t in state.items() if "lora_B" in name)
    assert not any(model.training for model in foundation.models)


def test_tuning_lowers_its_own_loss(foundation: Foundation, settings: Diffusion, tuning: Tuning) -> None:
    from fedwarm.diffusion.lora import load_adapter

    state, examples = tune_adapter(replace(tuning, settings=replace(settings, lora_steps=30, lora_learning_rate=1e-2))), None
    with attached(foundation.net, settings, 0, "loss"), torch.no_grad():
        examples = Examples.of(tuning)
        first = examples.loss(foundation.net, 64, generator(1, "loss"))
        load_adapter(foundation.net, state)
        assert examples.loss(foundation.net, 64, generator(1, "loss")) < first


@pytest.mark.parametrize(("precision", "checkpoints"), [("fp32", False), ("fp32", True), ("fp16", False), ("bf16", False)])
def test_private_steps_take_a_batch_as_single_images(settings: Diffusion, precision: str, checkpoints: bool) -> None:
    """No image reaches another one's gradient, so that each is found in a pass of all, while B is zero and later.

    Half precision rounds otherwise in a pass of several: gradients are as far as that alone takes them.
    """
    settings = replace(settings, lora_batch_size=3, precision=precision)
    foundation = load_foundation(settings, "cpu")
    images = torch.randint(256, (5, 3, 32, 32), generator=generator(0, "family"), dtype=torch.uint8)
    examples = Examples.of(Tuning(foundation, images, torch.tensor([0, 1, 2, 0, 1]), SENTENCES, settings, 0, 0))
    net, mechanism = foundation.net, Everyone(1.0, 1.0)
    with attached(net, settings, 0, "single"):
        weights = trainable(net.train())
        if checkpoints:
            net.enable_gradient_checkpointing()
        try:
            private_gradient(net, examples, torch.optim.AdamW(weights.values()), settings, foundation.dtype, mechanism)(0)
            [(singly, loss, drawn)] = mechanism.seen
            new = adapter_state(net)
            for state in (new, strong(new)):
                load_adapter(net, state)
                found, wanted = (flat(each(loss, weights, drawn)) for each in (singly, one_by_one))
                assert singly.apart and len(found) == len(images)
                within = 1e-4 if precision == "fp32" else 3 * rounding(loss, weights, drawn, wanted)
                assert bool(((found - wanted).norm(dim=1) <= within * wanted.norm(dim=1)).all()) and bool(wanted.any(1).all())
        finally:
            net.eval()
            net.disable_gradient_checkpointing()


def test_adapters_draw_the_same_in_plain_diffusers(foundation: Foundation, settings: Diffusion, tmp_path: Path) -> None:
    with attached(foundation.net, settings, 0, "file"):
        state = strong(adapter_state(foundation.net))
    order = Order(SENTENCES, [0, 1], 1, 0, 0, 32)
    ours = generate(foundation, state, order, settings).images
    save_adapter(tmp_path, state, settings.rank, settings.alpha, settings.targets, foundation.family)
    pipe = plain(settings)
    before = theirs(pipe, foundation, settings, order.seeds())
    pipe.load_lora_weights(tmp_path)
    told = theirs(pipe, foundation, settings, order.seeds())
    assert (ours - told).abs().max() <= 1 and (told - before).abs().max() > 3


def test_a_copy_has_the_same_fingerprint_in_half_precision(foundation: Foundation, settings: Diffusion) -> None:
    half = load_foundation(replace(settings, precision="fp16"), "cpu")
    assert half.fingerprint == foundation.fingerprint and half.net.dtype == torch.float16
    assert half.pipe.vae.dtype == (torch.float32 if half.family.wide else torch.float16)
    assert sample(half, TWO, range(2), settings, 32).shape == (2, 3, 32, 32)


def test_a_side_that_the_net_cannot_have_is_refused(foundation: Foundation, settings: Diffusion) -> None:
    with pytest.raises(
        SettingError, match="diffusion.image-size = 36 is no multiple of 8, as this foundation needs; set it to 32"
    ):
        load_foundation(replace(settings, image_size=36), "cpu")
    most = foundation.family.largest(foundation.pipe)
    if most:
        with pytest.raises(SettingError, match=f"diffusion.image-size = {most + 8} is more than this foundation can draw"):
            load_foundation(replace(settings, image_size=most + 8), "cpu")


def test_what_cannot_be_hollowed_is_refused_with_the_reason(foundation: Foundation, settings: Diffusion, tuning: Tuning) -> None:
    def cut() -> Any:
        return cut_of(foundation, settings, Hollowed(depth=1), 0)

    reasons: dict[str, str] = {
        PIPELINES[
            1
        ]: "takes more inputs than noise, time and a prompt: addition_embed_type; use diffusion.trainer = 'lora', or another",
        PIPELINES[2]: "cannot cut a SD3Transformer2DModel: .* a transformer has none",
    }
    reason = reasons.get(type(foundation.pipe).__name__)
    if reason is None:
        assert cut() is not None
        return
    with pytest.raises(SettingError, match=reason) as caught:
        cut()
    assert "\n" not in str(caught.value)


def test_flow_is_a_straight_path() -> None:
    """At time 0 the image, at time 1 the noise, and the target is the way from the one to the other."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    family, schedule = family_of(PIPELINES[2]), FlowMatchEulerDiscreteScheduler(shift=3.0)
    assert family is not None
    clean, noise = torch.ones(3, 4, 2, 2), torch.full((3, 4, 2, 2), 5.0)
    noisy, target = family.noised(schedule, clean, noise, torch.tensor([0.0, 500.0, 1000.0]))
    assert noisy[:, 0, 0, 0].tolist() == [1.0, 3.0, 5.0] and (target == 4.0).all()
    times = family.times(schedule, 4000, generator(0, "times"))
    assert times.min() > 0 and times.max() < 1000 and abs(times.median() - 750) < 15  # half of them, shifted by 3

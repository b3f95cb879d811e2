"""Fixtures: a Stable Diffusion pipeline of diffusers' own classes, small enough for tests, with random weights."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedwarm.core.seeds import generator, initialisation
from fedwarm.diffusion.foundation import Foundation, load_foundation
from fedwarm.diffusion.pretraining.glyphs import font_masks, glyph_batch
from fedwarm.diffusion.pretraining.untrained import Recipe, build_pipeline, build_tokenizer
from fedwarm.diffusion.sentences import WORDS
from fedwarm.diffusion.settings import Diffusion

SMALL = Recipe(unet_channels=(16, 32), vae_channels=(16, 16, 16), text_width=16, text_layers=1, threads=1)


@pytest.fixture(scope="session")
def sentences() -> list[str]:
    """One prompt per digit."""
    return [f"a photo of a {word}" for word in WORDS]


@pytest.fixture(scope="session")
def make_pipeline(sentences: list[str]) -> Callable[[Recipe], Any]:
    """A random pipeline of a recipe's sizes, the same each time."""
    tokenizer = build_tokenizer(sentences, SMALL.tokens)

    def make(recipe: Recipe) -> Any:
        with initialisation(0, "test-pipeline"):
            return build_pipeline(recipe, tokenizer)

    return make


@pytest.fixture(scope="session")
def pipeline_folder(make_pipeline: Callable[[Recipe], Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small pipeline as `save_pretrained` writes it; read it, do not write to it."""
    folder = tmp_path_factory.mktemp("foundation") / "small"
    make_pipeline(SMALL).save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="session")
def settings(pipeline_folder: Path) -> Diffusion:
    """Settings that make everything short."""
    return Diffusion(
        foundation=str(pipeline_folder),
        rank=4,
        alpha=8.0,
        lora_steps=3,
        lora_batch_size=8,
        lora_learning_rate=1e-3,
        scheduler="ddim",
        sample_steps=3,
        guidance=1.5,
    )


@pytest.fixture(scope="session")
def foundation(settings: Diffusion) -> Foundation:
    """The small pipeline, loaded."""
    return load_foundation(settings, "cpu")


@pytest.fixture(scope="session")
def glyph_sized(make_pipeline: Callable[[Recipe], Any]) -> Foundation:
    """A random foundation as wide as the embedded one."""
    pipe = make_pipeline(Recipe())
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.requires_grad_(False).eval()
    return Foundation(pipe, torch.device("cpu"), torch.float32, "")


@pytest.fixture(scope="session")
def with_scheduler() -> Callable[[Foundation, Any], Foundation]:
    """The same weights in a pipeline with another scheduler."""

    def swap(foundation: Foundation, scheduler: Any) -> Foundation:
        parts = {**foundation.pipe.components, "scheduler": scheduler}
        pipe = type(foundation.pipe)(**parts, requires_safety_checker=False)
        pipe.set_progress_bar_config(disable=True)
        return dataclasses.replace(foundation, pipe=pipe)

    return swap


@pytest.fixture(scope="session")
def pictures() -> tuple[Tensor, Tensor]:
    """Rendered digits: uint8 (24, 3, 32, 32) and labels (24,)."""
    images, _, labels = glyph_batch(font_masks(), 24, generator(0, "test-pictures"))
    return ((images + 1) * 127.5).round().to(torch.uint8), labels


@pytest.fixture(scope="session")
def random_adapter() -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """Noise in the names and shapes of an adapter, B included, strong enough to be seen."""

    def fill(state: dict[str, Tensor]) -> dict[str, Tensor]:
        draws = generator(0, "test-adapter")
        return {name: 0.3 * torch.randn(t.shape, generator=draws) for name, t in state.items()}

    return fill


@pytest.fixture(scope="session")
def digest() -> Callable[[nn.Module], str]:
    """SHA-256 over names and bytes of a module's state."""

    def over(module: nn.Module) -> str:
        total = hashlib.sha256()
        for name, tensor in module.state_dict().items():
            total.update(name.encode() + tensor.contiguous().numpy().tobytes())
        return total.hexdigest()

    return over

"""What a foundation of full size sets, and that what somebody says wins."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedwarm.catalogue import parse
from fedwarm.cli.settings import chosen
from fedwarm.diffusion.presets import foundation_presets
from fedwarm.diffusion.settings import Diffusion
from fedwarm.settings.fields import defaults
from fedwarm.settings.kinds import FAMILIES

LARGE = ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "StableDiffusion3Pipeline")


def folder_of(place: Path, name: str, latent: int = 64) -> Path:
    """A pipeline's configurations, as far as its size is told by them."""
    net = "transformer" if "3" in name else "unet"
    texts = {"model_index.json": {"_class_name": name}, f"{net}/config.json": {"sample_size": latent}}
    texts["vae/config.json"] = {"block_out_channels": [1, 1, 1, 1]}
    for path, content in texts.items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_text(json.dumps(content))
    return place


@pytest.mark.parametrize("name", LARGE)
def test_a_foundation_of_full_size_chooses_what_fits_it(tmp_path: Path, name: str) -> None:
    folder, usual = folder_of(tmp_path, name), defaults((Diffusion,))
    found = parse({"diffusion.foundation": str(folder), "diffusion.guidance": 1.5}).flat()
    presets = foundation_presets(str(folder))
    assert presets["diffusion.lora-learning-rate"] == 1e-4 and presets.keys() <= usual.keys()
    assert all(found[key] == value != usual[key] for key, value in presets.items() if key != "diffusion.guidance")
    assert found["diffusion.guidance"] == 1.5  # as somebody said, though it is the default


def test_a_record_is_read_as_it_stands(tmp_path: Path) -> None:
    first = parse({"diffusion.foundation": str(folder_of(tmp_path, LARGE[0])), "diffusion.lora-batch-size": 16})
    assert parse(first.flat()).of(Diffusion) == first.of(Diffusion) and first.of(Diffusion).lora_batch_size == 16


def test_a_small_one_sets_nothing(tmp_path: Path, pipeline_folder: Path) -> None:
    assert foundation_presets("glyph") == foundation_presets(str(pipeline_folder)) == {}
    assert foundation_presets(str(folder_of(tmp_path, LARGE[0], 16))) == {}
    assert foundation_presets(str(tmp_path / "nowhere")) == foundation_presets("a/b/c") == {}


def test_a_hub_name_that_is_not_here_counts_as_stable_diffusion(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert foundation_presets("owner/model@main") == FAMILIES.load(FAMILIES.first).usual


@pytest.mark.parametrize("name", FAMILIES.own())
def test_they_are_shown(name: str) -> None:
    shown = " ".join(part.below for part in chosen(name))
    assert all(f"{key} = " in shown for key in FAMILIES.load(name).usual)

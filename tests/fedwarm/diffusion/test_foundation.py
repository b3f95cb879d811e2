"""Loading a foundation: where it is found, what is refused and how, and the embedded one itself."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, EDMEulerScheduler
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedwarm.diffusion import foundation as module
from fedwarm.diffusion.checks import check_kind
from fedwarm.diffusion.fingerprints import fingerprint
from fedwarm.diffusion.foundation import Foundation, asset_folder, load_foundation, locate
from fedwarm.diffusion.lora import adapter_state, attached, load_adapter
from fedwarm.diffusion.pipeline import read_pipeline
from fedwarm.diffusion.sampling import sample
from fedwarm.diffusion.settings import Diffusion
from fedwarm.settings.fields import SettingError

UNET, TEXT = "unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
EMBEDDED = Path(module.__file__).parents[1] / "assets" / "glyph"


@pytest.fixture
def copy_of(pipeline_folder: Path, tmp_path: Path) -> Path:
    """The small pipeline's folder, to be spoiled."""
    return Path(shutil.copytree(pipeline_folder, tmp_path / "pipeline"))


def load(folder: Path | str, precision: str = "fp32") -> Foundation:
    return load_foundation(Diffusion(foundation=str(folder), precision=precision), "cpu")


def test_a_foundation_is_frozen_and_ready(foundation: Foundation) -> None:
    pipe = foundation.pipe
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        assert not part.training
        assert not any(p.requires_grad for p in part.parameters())
        assert {p.dtype for p in part.parameters()} == {torch.float32}
    assert type(pipe).__name__ == "StableDiffusionPipeline" and pipe.safety_checker is None
    assert foundation.image_size == 32 and foundation.device == torch.device("cpu")


def test_it_is_loaded_once(foundation: Foundation, settings: Diffusion) -> None:
    again = load_foundation(dataclasses.replace(settings, rank=1), "cpu")
    assert again is load_foundation(settings, "cpu")
    assert again.fingerprint == foundation.fingerprint


def test_a_prompt_is_embedded_alone(foundation: Foundation, sentences: list[str]) -> None:
    together = foundation.embed([*sentences, "", "an ~ unheard-of prompt: ünïcode, " + "long " * 50])
    assert together.shape == (12, 20, 16)
    assert torch.equal(foundation.embed(sentences[3:4]), together[3:4])
    assert len({row.numpy().tobytes() for row in together}) == 12


def test_text_is_embedded_as_the_pipeline_does(foundation: Foundation, sentences: list[str]) -> None:
    given, empty = foundation.pipe.encode_prompt(sentences, torch.device("cpu"), 1, True)
    torch.testing.assert_close(foundation.embed(sentences), given, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(foundation.embed([""]), empty[:1], rtol=1e-5, atol=1e-5)


def test_latents_are_at_unit_scale_of_the_pipeline(foundation: Foundation, pictures: tuple[Tensor, Tensor]) -> None:
    images = pictures[0].repeat(2, 1, 1, 1) / 127.5 - 1
    latents = foundation.encode(images)
    assert latents.shape == (48, 4, 8, 8)
    with torch.no_grad():
        mean = foundation.pipe.vae.encode(images).latent_dist.mean
    torch.testing.assert_close(latents / foundation.pipe.vae.config.scaling_factor, mean, rtol=1e-4, atol=1e-5)


def test_fingerprint_tells_weights_apart_and_not_copies(foundation: Foundation, copy_of: Path) -> None:
    assert load(copy_of).fingerprint == foundation.fingerprint
    weights = load_file(copy_of / UNET)
    weights["conv_out.bias"] += 1e-3
    save_file(weights, copy_of.parent / "other.safetensors")
    shutil.copytree(copy_of, copy_of.parent / "other")
    (copy_of.parent / "other.safetensors").replace(copy_of.parent / "other" / UNET)
    assert load(copy_of.parent / "other").fingerprint != foundation.fingerprint


def _scale(folder: Path) -> None:
    _configure(folder / "vae" / "config.json", scaling_factor=0.5)


def _noise(folder: Path) -> None:
    _configure(folder / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")


def _activation(folder: Path) -> None:
    _configure(folder / "text_encoder" / "config.json", hidden_act="gelu")


def _configure(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _shift(file: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        weights = load_file(folder / file)
        name = sorted(weights)[0]
        weights[name] = weights[name] + 1e-2
        (folder / file).unlink()
        save_file(weights, folder / file, metadata={"format": "pt"})

    return spoil


@pytest.mark.parametrize("change", [_shift(UNET), _shift(TEXT), _shift(VAE), _scale, _noise, _activation])
def test_fingerprint_tells_every_part(foundation: Foundation, copy_of: Path, change: Callable[[Path], None]) -> None:
    change(copy_of)
    assert load(copy_of).fingerprint != foundation.fingerprint


def test_fingerprint_is_that_of_old_and_new_spellings(foundation: Foundation, copy_of: Path) -> None:
    """Other versions write defaults that they know, notes of their own, and the text encoder's names behind a prefix."""
    weights = {f"text_model.{name}": tensor for name, tensor in load_file(copy_of / TEXT).items()}
    (copy_of / TEXT).unlink()
    save_file(weights, copy_of / TEXT, metadata={"format": "pt"})
    scheduler = copy_of / "scheduler" / "scheduler_config.json"
    told = json.loads(scheduler.read_text())
    assert told.pop("rescale_betas_zero_snr") is False
    scheduler.write_text(json.dumps({**told, "_diffusers_version": "0.99"}))
    assert load(copy_of).fingerprint == foundation.fingerprint


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_fingerprint_is_the_same_in_every_precision(foundation: Foundation, copy_of: Path, precision: str) -> None:
    assert load(copy_of, precision).fingerprint == foundation.fingerprint


def test_fingerprint_ignores_adapters(foundation: Foundation, settings: Diffusion, random_adapter: Callable[..., Any]) -> None:
    unet = foundation.pipe.unet
    with attached(unet, settings, 0, "print"):
        load_adapter(unet, random_adapter(adapter_state(unet)))
        assert fingerprint(foundation.pipe) == foundation.fingerprint
    assert fingerprint(foundation.pipe) == foundation.fingerprint


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16), ("auto", torch.float32)])
def test_half_precision_draws(
    copy_of: Path, settings: Diffusion, sentences: list[str], foundation: Foundation, precision: str, dtype: torch.dtype
) -> None:
    half = load(copy_of, precision)
    assert half.dtype == dtype
    assert {p.dtype for m in (half.pipe.unet, half.pipe.vae, half.pipe.text_encoder) for p in m.parameters()} == {dtype}
    assert half.embed(sentences).dtype == dtype
    drawn, exact = (sample(f, sentences, range(10), settings, 32).int() for f in (half, foundation))
    assert (drawn - exact).float().abs().mean() < 4


@pytest.mark.parametrize("name", ["no-such-model", "/no/such/folder", "./no-such-folder", "a/b/c", "../x/y"])
def test_a_name_that_is_neither_folder_nor_hub_name_is_refused(name: str) -> None:
    with pytest.raises(SettingError, match="neither a folder nor a Hub name") as caught:
        locate(name)
    assert repr(name) in str(caught.value) and "\n" not in str(caught.value)


def test_folders_and_hub_names_stand_for_themselves(pipeline_folder: Path) -> None:
    assert locate(str(pipeline_folder)) == str(pipeline_folder)
    assert locate("stable-diffusion-v1-5/stable-diffusion-v1-5") == "stable-diffusion-v1-5/stable-diffusion-v1-5"


def test_a_folder_without_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"not a Stable Diffusion pipeline: it has no model_index\.json"):
        load(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '"StableDiffusionPipeline"', "\x00"])
def test_an_index_that_cannot_be_read_is_refused(copy_of: Path, text: str) -> None:
    (copy_of / "model_index.json").write_text(text)
    with pytest.raises(SettingError, match=r"model_index\.json cannot be read"):
        load(copy_of)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_pipeline_without_one_of_its_parts_is_refused(copy_of: Path, part: str) -> None:
    shutil.rmtree(copy_of / part)
    with pytest.raises(SettingError, match=f"it lacks {part};"):
        load(copy_of)


@pytest.mark.parametrize("name", ["StableDiffusionXLPipeline", "StableDiffusion3Pipeline", "FluxPipeline", "DDPMPipeline", None])
def test_another_kind_of_pipeline_is_refused(copy_of: Path, name: str | None) -> None:
    index = json.loads((copy_of / "model_index.json").read_text())
    (copy_of / "model_index.json").write_text(json.dumps({**index, "_class_name": name}))
    with pytest.raises(SettingError, match="not a Stable Diffusion pipeline"):
        load(copy_of)


def test_a_tokenizer_without_words_is_refused(copy_of: Path) -> None:
    for file in (copy_of / "tokenizer").iterdir():
        file.unlink()
    with pytest.raises(SettingError, match="tokenizer folder is complete"):
        load(copy_of)


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package as if imported from a bundle's copy, which carries no weights."""
    folder = tmp_path / "bundle" / "fedwarm"
    monkeypatch.setattr(module, "__file__", str(folder / "diffusion" / "foundation.py"))
    return folder


def install(site: Path, direct_url: str | None = None) -> None:
    """What pip leaves of an installed fedwarm: its metadata."""
    info = site / "fedwarm-0.0.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fedwarm\nVersion: 0.0.0\n")
    if direct_url is not None:
        (info / "direct_url.json").write_text(json.dumps({"url": direct_url, "dir_info": {"editable": True}}))


def put_assets(package: Path) -> Path:
    folder = package / "assets" / "glyph"
    folder.mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    return folder


def test_assets_lie_beside_the_package(bundle: Path) -> None:
    folder = put_assets(bundle)
    assert asset_folder("glyph") == folder
    assert locate("glyph") == str(folder)


def test_a_bundle_finds_the_assets_of_a_wheel(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "site")
    folder = put_assets(tmp_path / "site" / "fedwarm")
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert asset_folder("glyph") == folder


def test_a_bundle_finds_the_assets_of_an_editable_install(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = tmp_path / "my check-out, 100%"
    install(tmp_path / "site", checkout.as_uri())
    folder = put_assets(checkout / "fedwarm")
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert asset_folder("glyph") == folder


def test_an_install_from_elsewhere_is_no_folder(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "site", "https://example.org/fedwarm-0.1.0-py3-none-any.whl")
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert asset_folder("glyph") is None


def test_no_assets_anywhere_says_what_to_do(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    assert asset_folder("glyph") is None
    with pytest.raises(SettingError, match="fedwarm foundation train glyph") as caught:
        load("glyph")
    assert "install fedwarm" in str(caught.value) and "diffusion.foundation" in str(caught.value)


@pytest.fixture
def glyph() -> Path:
    if not (EMBEDDED / "model_index.json").is_file():
        pytest.skip("the embedded foundation is not in fedwarm/assets yet; `fedwarm foundation train glyph` makes it")
    return EMBEDDED


def test_the_embedded_foundation_is_small_and_holds_no_pickle(glyph: Path) -> None:
    files = [path for path in glyph.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 6_000_000
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt", ".md"}
    for part in ("unet", "vae", "text_encoder"):
        weights = list((glyph / part).glob("*.safetensors"))
        assert len(weights) == 1
        with safe_open(weights[0], "pt") as file:
            assert all(torch.isfinite(file.get_tensor(name)).all() for name in file.keys())  # noqa: SIM118


def test_the_embedded_foundation_says_how_it_was_made(glyph: Path) -> None:
    record = json.loads((glyph / "recipe.json").read_text())
    assert isinstance(record["recipe"]["seed"], int)
    assert record["recipe"]["unet_steps"] > 0 and record["recipe"]["vae_steps"] >= 0
    assert record["seconds"] > 0
    assert record["quality"] and all(math.isfinite(value) for value in record["quality"].values())


def test_the_embedded_foundation_loads_and_draws(glyph: Path, sentences: list[str]) -> None:
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(glyph)
    pipe.set_progress_bar_config(disable=True)
    drawn = pipe(sentences[:2], num_inference_steps=4, output_type="np", generator=torch.Generator().manual_seed(0)).images
    assert drawn.shape == (2, 32, 32, 3) and drawn.std() > 0.1
    ours = load("glyph")
    assert ours.image_size == 32 and ours.dtype == torch.float32
    embedded = ours.embed(["", *sentences])
    assert len({row.numpy().tobytes() for row in embedded}) == 11


def test_a_sentence_that_is_cut_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    foundation = load_foundation(Diffusion(), "cpu")
    with caplog.at_level("WARNING", logger="fedwarm"):
        foundation.embed(["a photo of a seven, light on dark, thick strokes"])
        assert not caplog.messages
        long = "a photo of a " + "very " * 30 + "small seven"
        states = [foundation.embed([long]), foundation.embed([long])]
    assert caplog.messages == [f"fedwarm: the text encoder reads 20 tokens of a sentence, and {long!r} has more; shorten it"]
    assert torch.equal(*states) and states[0].shape[1] == 20


def test_files_of_either_precision_are_one_foundation(pipeline_folder: Path) -> None:
    pipe = read_pipeline(pipeline_folder, "mine")
    marks = [fingerprint(pipe.to(dtype)) for dtype in (torch.float32, torch.float16)]
    with torch.no_grad():
        pipe.unet.conv_in.weight += 0.01
    assert marks[0] == marks[1] != fingerprint(pipe)


@pytest.mark.parametrize(
    ("scheduler", "told"),
    [
        (EDMEulerScheduler(), "the scheduler EDMEulerScheduler, whose noise has no betas"),
        (DDPMScheduler(prediction_type="sample", steps_offset=1, clip_sample=False), "a net that says 'sample'"),
    ],
)
def test_a_schedule_of_another_kind_is_refused(scheduler: Any, told: str, pipeline_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(pipeline_folder, tmp_path / "other"))
    shutil.rmtree(folder / "scheduler")
    scheduler.save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "scheduler": ["diffusers", type(scheduler).__name__]}))
    settings = Diffusion(foundation=str(folder))
    for refuse in (lambda: load_foundation(settings, "cpu"), lambda: check_kind(folder, settings)):
        with pytest.raises(SettingError, match=f"'{folder}' has {told}.*; give another"):
            refuse()

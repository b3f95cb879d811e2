"""Making the embedded foundation: the tokenizer, the sizes, and that a recipe makes one folder and no other."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from fedwarm.core.failures import RunError
from fedwarm.core.seeds import generator
from fedwarm.diffusion.foundation import load_foundation
from fedwarm.diffusion.pretraining.course import UNFINISHED
from fedwarm.diffusion.pretraining.embedded import pretrain
from fedwarm.diffusion.pretraining.glyphs import font_masks, glyph_batch
from fedwarm.diffusion.pretraining.recipe import _optimiser, tokenize
from fedwarm.diffusion.pretraining.untrained import Recipe, build_pipeline, build_tokenizer
from fedwarm.diffusion.sampling import sample
from fedwarm.diffusion.sentences import WORDS
from fedwarm.diffusion.settings import Diffusion
from fedwarm.settings.fields import SettingError

RECIPE = Recipe(
    seed=5,
    threads=1,
    vae_channels=(8, 8, 8),
    vae_steps=2,
    unet_channels=(8, 16),
    unet_steps=2,
    images=40,
    batch_size=4,
    text_width=16,
    text_layers=1,
)


class StoppedError(Exception):
    """The machine went off."""


def silent(*told: object) -> None:
    """Nobody looks."""


@pytest.fixture(scope="module", autouse=True)
def torch_as_before() -> Iterator[None]:
    """Training a foundation is a command of its own: it seeds torch and sets threads, which tests after it must not see."""
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    yield
    torch.set_rng_state(state)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def captions() -> list[str]:
    return glyph_batch(font_masks(), 1500, generator(0, "captions"))[1]


@pytest.fixture(scope="module")
def tokenizer(captions: list[str]) -> Any:
    return build_tokenizer(captions, Recipe.tokens)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[tuple[str, int, int]]]:
    """A folder, the record that came back, and what was told on the way."""
    folder, told = tmp_path_factory.mktemp("pretrain") / "made", []
    record = pretrain(folder, RECIPE, lambda stage, step, of, text: told.append((stage, step, of)))
    return folder, record, told


Made = tuple[Path, dict[str, Any], list[tuple[str, int, int]]]


def test_every_caption_fits(tokenizer: Any, captions: list[str]) -> None:
    lengths = [len(tokenizer(caption).input_ids) for caption in set(captions)]
    assert max(lengths) <= Recipe.tokens == tokenizer.model_max_length


def test_token_ids_are_padded_and_bounded(tokenizer: Any, captions: list[str]) -> None:
    ids = tokenize(tokenizer, [*captions[:5], "", "any other text, in Ünïcode: 北京 " * 9])
    assert ids.shape == (7, Recipe.tokens) and ids.dtype == torch.int64
    assert ids.min() >= 0 and ids.max() < len(tokenizer)
    assert (ids[:, 0] == tokenizer.bos_token_id).all() and (ids[:, -1] == tokenizer.eos_token_id).all()
    assert ids[5, 1:].unique().tolist() == [tokenizer.eos_token_id]


def test_words_are_told_apart_and_come_back(tokenizer: Any, captions: list[str]) -> None:
    ids = tokenize(tokenizer, [f"a photo of a {name}" for name in (*WORDS, *range(10))])
    assert len({tuple(row) for row in ids.tolist()}) == 20
    for text in (*captions[:50], "a photo of a zebra", "CAPITALS ARE SMALL"):
        back = tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True)
        assert back.replace(" ", "") == text.lower().replace(" ", "")


def test_the_recipe_decides_the_sizes(tokenizer: Any) -> None:
    with torch.device("meta"):
        pipe = build_pipeline(Recipe(), tokenizer)
    assert (pipe.unet.config.sample_size, pipe.vae_scale_factor) == (8, 4)
    assert pipe.unet.config.cross_attention_dim == pipe.text_encoder.config.hidden_size == 64
    assert pipe.text_encoder.config.vocab_size == len(tokenizer)
    assert pipe.text_encoder.config.max_position_embeddings == tokenizer.model_max_length
    assert not pipe.scheduler.config.clip_sample
    numbers = sum(p.numel() for part in (pipe.unet, pipe.vae, pipe.text_encoder) for p in part.parameters())
    assert 2 * numbers < 5_900_000


def test_it_tells_how_far_it_is(made: Made) -> None:
    stages = [(stage, step, of) for stage, step, of in made[2] if stage != "latents"]
    assert stages == [("autoencoder", 1, 2), ("autoencoder", 2, 2), ("denoiser", 1, 2), ("denoiser", 2, 2)]
    assert made[2][-3] == ("latents", 40, 40)


def test_the_record_says_how_it_was_made(made: Made) -> None:
    folder, record, _ = made
    assert json.loads((folder / "recipe.json").read_text()) == record
    assert record["recipe"] == json.loads(json.dumps(dataclasses.asdict(RECIPE)))
    assert record["seconds"] >= 0 and record["torch"] == torch.__version__
    assert 0 < record["autoencoder_l1"] < 2


def test_the_folder_holds_half_precision_safetensors(made: Made) -> None:
    files = [path for path in made[0].rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    weights = [path for path in files if path.suffix == ".safetensors"]
    assert sorted(path.parent.name for path in weights) == ["text_encoder", "unet", "vae"]
    for path in weights:
        with safe_open(path, "pt") as file:
            assert {file.get_tensor(name).dtype for name in file.keys() if "position_ids" not in name} == {torch.float16}  # noqa: SIM118


def test_diffusers_loads_the_folder_and_draws(made: Made) -> None:
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(made[0])
    pipe.set_progress_bar_config(disable=True)
    drawn = pipe(["a photo of a two"], num_inference_steps=2, output_type="np").images
    assert drawn.shape == (1, 32, 32, 3) and drawn.std() > 0


def test_the_project_loads_the_folder_and_draws(made: Made) -> None:
    settings = Diffusion(foundation=str(made[0]), scheduler="ddim", sample_steps=2)
    foundation = load_foundation(settings, "cpu")
    assert sample(foundation, ["a photo of a two"], [0], settings, 32).float().std() > 0
    images = glyph_batch(font_masks(), 200, generator(0, "scale"))[0]
    assert abs(foundation.encode(images).std() - 1) < 0.15


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "recipe.json"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.long
def test_a_recipe_makes_one_folder(made: Made, tmp_path: Path) -> None:
    torch.rand(3)
    again = pretrain(tmp_path / "again", RECIPE, silent)
    assert contents(tmp_path / "again") == contents(made[0])
    assert {**again, "seconds": 0} == {**made[1], "seconds": 0}


@pytest.mark.long
def test_another_seed_makes_another(made: Made, tmp_path: Path) -> None:
    pretrain(tmp_path / "other", dataclasses.replace(RECIPE, seed=6), silent)
    first, second = contents(made[0]), contents(tmp_path / "other")
    assert first.keys() == second.keys()
    for part in ("unet", "vae"):
        name = f"{part}/diffusion_pytorch_model.safetensors"
        assert first[name] != second[name]


def test_a_stopped_training_goes_on_to_the_same_weights(made: Made, tmp_path: Path) -> None:
    """Also over the training's own half-written folder, and never over anything else."""
    folder, told = tmp_path / "stopped", []

    def stop(stage: str, step: int, of: int, text: str) -> None:
        if stage == "denoiser":
            raise StoppedError

    with pytest.raises(StoppedError):
        pretrain(folder, RECIPE, stop)
    assert [path.name for path in folder.iterdir()] == [UNFINISHED]
    pretrain(folder, RECIPE, lambda stage, *rest: told.append(stage))
    assert set(told) == {"latents", "denoiser"}
    assert contents(folder) == contents(made[0])
    assert pretrain(folder, RECIPE, lambda *told: pytest.fail("it trains"))["recipe"]["seed"] == RECIPE.seed


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (dataclasses.replace(RECIPE, seed=7), "holds a foundation of another recipe or other images; name a new folder"),
        (None, "holds a pipeline that was not trained here; name a new folder"),
    ],
)
def test_what_another_training_or_nobody_here_made_is_left_as_it_is(
    made: Made, tmp_path: Path, recipe: Recipe | None, words: str
) -> None:
    folder = Path(shutil.copytree(made[0], tmp_path / "theirs"))
    if recipe is None:
        (folder / "recipe.json").unlink()
    before = contents(folder)
    with pytest.raises(SettingError, match=words):
        pretrain(folder, recipe or RECIPE, silent)
    assert contents(folder) == before


@pytest.mark.parametrize("part", ["vae", "unet"])
def test_a_training_that_diverges_ends_and_says_which_rate_to_lower(part: str, tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, **{f"{part}_learning_rate": 1e30, f"{part}_steps": 5})
    with pytest.raises(RunError, match=f"training diverged; lower --{part}-learning-rate, now 1e"):
        pretrain(tmp_path / "diverged", recipe, silent)
    assert not (tmp_path / "diverged" / "model_index.json").exists()


@pytest.mark.parametrize("steps", [1, 2, 3, 19, 20, 21, 39, 40, 400])
def test_a_rate_rises_and_falls_over_any_number_of_steps(steps: int) -> None:
    optimiser, schedule = _optimiser([torch.nn.Linear(1, 1)], 0.1, steps)
    rates = []
    for _ in range(steps):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    assert 0 < max(rates) <= 0.1 + 1e-9 and rates[-1] == min(rates[len(rates) // 2 :])


@pytest.mark.gpu
def test_a_gpu_trains_alike(made: Made, tmp_path: Path) -> None:
    record = pretrain(tmp_path / "made", RECIPE, silent, device=torch.device("cuda"))
    assert record["device"] == "cuda" and made[1]["device"] == "cpu"
    assert abs(record["autoencoder_l1"] - made[1]["autoencoder_l1"]) < 0.05

"""A foundation of one's own: what it sees, where it starts, that it goes on and is the same again, and how it is judged."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from fedwarm.core.seeds import generator
from fedwarm.data import load_shard
from fedwarm.data.sets.digits import digits_table
from fedwarm.data.settings import Data
from fedwarm.data.tables import public_rows
from fedwarm.diffusion.foundation import asset_folder, load_foundation
from fedwarm.diffusion.pretraining.captions import PublicPart, moved, public_part, refuse_seen
from fedwarm.diffusion.pretraining.course import UNFINISHED
from fedwarm.diffusion.pretraining.glyphs import font_masks, glyph_batch
from fedwarm.diffusion.pretraining.public import PUBLIC_RECIPE, pretrain_public, started
from fedwarm.diffusion.pretraining.quality import judged_public
from fedwarm.diffusion.sentences import HANDWRITING, WORDS
from fedwarm.diffusion.settings import Diffusion
from fedwarm.settings.fields import SettingError

DIGITS = Data(public_share=0.5)
RECIPE = dataclasses.replace(PUBLIC_RECIPE, seed=5, vae_steps=2, unet_steps=2, images=40, batch_size=4)
SMALL = dataclasses.replace(
    RECIPE, vae_channels=(8, 8, 8), unet_channels=(8, 16), text_width=16, text_layers=1, vae_learning_rate=2e-3
)
Made = tuple[Path, dict[str, Any], list[tuple[str, int, int]]]


@pytest.fixture(scope="module")
def digits() -> PublicPart:
    return public_part(DIGITS, jitter=0.05)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, digits: PublicPart) -> Made:
    """A foundation that started warm, its record, and what was told on the way."""
    folder, told = tmp_path_factory.mktemp("public") / "made", []
    threads = torch.get_num_threads()
    record = pretrain_public(folder, digits, RECIPE, "glyph", lambda stage, step, of, text: told.append((stage, step, of)))
    torch.set_num_threads(threads)
    return folder, record, told


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, digits: PublicPart) -> tuple[Path, dict[str, Any]]:
    """A foundation from scratch that is made in a second, and its record."""
    folder = tmp_path_factory.mktemp("public") / "small"
    return folder, pretrain_public(folder, digits, SMALL, "scratch", silent)


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "recipe.json"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def silent(*told: object) -> None:
    """Nobody listens."""


# Pictures and captions


def test_the_images_are_the_public_ones(digits: PublicPart) -> None:
    table = digits_table(32)
    rows = public_rows(table, 0.5)
    assert torch.equal(digits.images, table.images(rows))
    assert digits.labels.tolist() == table.label.codes[rows].tolist()
    own = {image.numpy().tobytes() for image in digits.images}
    for seed in (0, 1):
        for i in range(3):
            shard = load_shard(dataclasses.replace(DIGITS, partition="dirichlet"), seed, i, 3)
            assert not own & {image.numpy().tobytes() for image in torch.cat([shard.train_images, shard.test_images])}


def test_a_picture_has_its_class_in_its_caption(digits: PublicPart) -> None:
    still = dataclasses.replace(digits, jitter=0.0)
    pictures, captions = still.batch(300, generator(0, "batch"))
    label = {image.numpy().tobytes(): int(c) for image, c in zip(digits.images, digits.labels, strict=True)}
    for picture, caption in zip(pictures, captions, strict=True):
        word = digits.phrases[label[((picture + 1) * 127.5).round().to(torch.uint8).numpy().tobytes()]]
        assert f" {word} " in f" {caption} "
    assert digits.phrases == WORDS and digits.templates == HANDWRITING
    assert len(set(captions)) > 100 and set(captions) <= set(digits.captions())
    again = still.batch(300, generator(0, "batch"))
    assert torch.equal(again[0], pictures) and again[1] == captions


def test_pictures_move_a_little_and_stay_on_their_ground() -> None:
    picture = torch.full((50, 3, 32, 32), -1.0)
    picture[:, :, 12:20, 12:20] = 1.0
    out = moved(picture, 0.1, generator(0, "move"))
    assert out.shape == picture.shape and out.abs().max() < 1 + 1e-5
    assert (out[:, :, 0] + 1).abs().max() < 1e-5 and not torch.equal(out[0], out[1])
    where = torch.arange(32.0)
    bright = (out[:, 0] + 1) / 2
    shift = (bright.sum(1) * where).sum(1) / bright.sum((1, 2)) - 15.5
    assert 1.5 < shift.abs().max() <= 3.6 and abs(shift.mean()) < 1
    assert moved(picture, 0.0, generator(0, "move")) is picture


@pytest.mark.parametrize(("share", "words"), [(0.0, "no public part to train on"), (0.001, "holds no image of class")])
def test_a_share_that_leaves_nothing_is_refused(share: float, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        public_part(Data(public_share=share))


# Training


def test_it_tells_how_far_it_is(made: Made) -> None:
    assert [t for t in made[2] if t[0] != "latents"] == [(s, i, 2) for s in ("autoencoder", "denoiser") for i in (1, 2)]


def test_the_record_says_how_it_was_made(made: Made) -> None:
    folder, record, _ = made
    assert json.loads((folder / "recipe.json").read_text()) == record
    assert record["recipe"] == json.loads(json.dumps(dataclasses.asdict(RECIPE)))
    assert record["start"] == "glyph" and record["data"]["name"] == "digits" and record["data"]["public_share"] == 0.5
    assert record["data"]["images"] == 898 and record["data"]["classes"] == list(WORDS)
    assert 0 < record["autoencoder_l1"] < 0.5 and record["seconds"] >= 0
    assert tuple((folder / "prompts.txt").read_text().splitlines()) == HANDWRITING
    assert not (folder / UNFINISHED).exists()


def test_the_project_loads_it_and_captions_are_whole(made: Made, digits: PublicPart) -> None:
    foundation = load_foundation(Diffusion(foundation=str(made[0])), "cpu")
    assert foundation.image_size == 32
    tokenizer = foundation.pipe.tokenizer
    for caption in digits.captions():
        ids = tokenizer(caption).input_ids
        assert len(ids) <= tokenizer.model_max_length == 20
        assert tokenizer.decode(ids, skip_special_tokens=True).split() == caption.split()
    assert len(tokenizer("a handwritten seven").input_ids) == 5


def test_a_warm_start_draws_what_glyph_draws(digits: PublicPart) -> None:
    """Before any training the other tokenizer changes nothing for words that both know."""
    glyph = load_foundation(Diffusion(), "cpu")
    pipe = started(digits, RECIPE, "glyph")
    fresh = dataclasses.replace(glyph, pipe=pipe)
    shared = set(glyph.pipe.tokenizer.get_vocab()) & set(pipe.tokenizer.get_vocab())
    assert {f"{word}</w>" for word in (*WORDS, "photo", "a", "of")} <= shared
    with torch.no_grad():
        assert torch.equal(fresh.embed(["a photo of a seven"]), glyph.embed(["a photo of a seven"]))
    for name in ("unet", "vae"):
        ours, theirs = getattr(pipe, name).state_dict(), getattr(glyph.pipe, name).state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.long
def test_a_recipe_makes_one_folder_and_a_seed_another(
    small: tuple[Path, dict[str, Any]], digits: PublicPart, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    again = pretrain_public(tmp_path / "again", digits, SMALL, "scratch", silent)
    assert torch.equal(torch.rand(3), wanted)
    assert contents(tmp_path / "again") == contents(small[0])
    assert {**again, "seconds": 0} == {**small[1], "seconds": 0}
    pretrain_public(tmp_path / "other", digits, dataclasses.replace(SMALL, seed=6), "scratch", silent)
    first, second = contents(small[0]), contents(tmp_path / "other")
    assert first.keys() == second.keys()
    for part in ("unet", "vae"):
        assert first[f"{part}/diffusion_pytorch_model.safetensors"] != second[f"{part}/diffusion_pytorch_model.safetensors"]


def test_from_scratch_has_the_sizes_of_the_recipe(small: tuple[Path, dict[str, Any]]) -> None:
    foundation = load_foundation(Diffusion(foundation=str(small[0])), "cpu")
    assert tuple(foundation.pipe.unet.config.block_out_channels) == (8, 16) and small[1]["start"] == "scratch"


def test_no_path_of_this_machine_travels(made: Made, small: tuple[Path, dict[str, Any]]) -> None:
    for folder in (made[0], small[0]):
        for path in folder.rglob("*.json"):
            assert "_name_or_path" not in path.read_text() and str(Path.home()) + "/" not in path.read_text()


class StoppedError(Exception):
    """The machine went off."""


def test_a_stopped_training_goes_on_to_the_same_weights(
    small: tuple[Path, dict[str, Any]], digits: PublicPart, tmp_path: Path
) -> None:
    folder, told = tmp_path / "stopped", []

    def stop(stage: str, step: int, of: int, text: str) -> None:
        if stage == "denoiser":
            raise StoppedError

    with pytest.raises(StoppedError):
        pretrain_public(folder, digits, SMALL, "scratch", stop)
    assert [path.name for path in folder.iterdir()] == [UNFINISHED]
    pretrain_public(folder, digits, SMALL, "scratch", lambda stage, *rest: told.append(stage))
    assert set(told) == {"latents", "denoiser"}
    assert contents(folder) == contents(small[0])


def test_an_autoencoder_of_another_recipe_is_not_gone_on_with(digits: PublicPart, tmp_path: Path) -> None:
    folder, told = tmp_path / "stopped", []

    def stop(stage: str, step: int, of: int, text: str) -> None:
        if stage == "latents":
            raise StoppedError

    with pytest.raises(StoppedError):
        pretrain_public(folder, digits, SMALL, "scratch", stop)
    pretrain_public(folder, digits, dataclasses.replace(SMALL, seed=9), "scratch", lambda stage, *rest: told.append(stage))
    assert told.count("autoencoder") == 2


def test_a_finished_training_is_not_done_again(made: Made, digits: PublicPart) -> None:
    before = contents(made[0])
    assert pretrain_public(made[0], digits, RECIPE, "glyph", lambda *told: pytest.fail("it trains")) == made[1]
    assert contents(made[0]) == before


def test_other_pictures_under_the_same_labels_are_another_training(made: Made, digits: PublicPart) -> None:
    """Of a data set with two columns of images, for one."""
    before, negative = contents(made[0]), dataclasses.replace(digits, images=255 - digits.images)
    with pytest.raises(SettingError, match="holds a foundation of another recipe or other images; name a new folder"):
        pretrain_public(made[0], negative, RECIPE, "glyph", silent)
    assert contents(made[0]) == before


def test_a_caption_that_does_not_fit_is_refused(digits: PublicPart, tmp_path: Path) -> None:
    long = dataclasses.replace(digits, phrases=(*WORDS[:9], "nine " * 30))
    with pytest.raises(SettingError, match="tokens, more than 20; shorten the class's name"):
        pretrain_public(tmp_path / "long", long, RECIPE, "glyph", silent)
    assert not (tmp_path / "long").exists()


# What it saw


@pytest.fixture
def make_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Sequence[int]], Data]:
    """A folder of parquet files with plain pictures of these shades, of two classes in turn."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()

    def make(name: str, shades: Sequence[int]) -> Data:
        def png(shade: int) -> dict[str, bytes]:
            file = io.BytesIO()
            Image.new("L", (28, 28), shade).save(file, "PNG")
            return {"bytes": file.getvalue()}

        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "big_dog"])})
        columns = {"image": [png(shade) for shade in shades], "label": [i % 2 for i in range(len(shades))]}
        (tmp_path / name).mkdir()
        datasets.Dataset.from_dict(columns, features=features).to_parquet(tmp_path / name / "train.parquet")
        return Data(name=str(tmp_path / name), public_share=0.25)

    return make


def test_private_images_leave_no_trace(make_set: Callable[[str, Sequence[int]], Data], tmp_path: Path) -> None:
    shades = np.arange(40) * 6
    one = make_set("one", shades.tolist())
    part = public_part(one)
    seen = {int(image[0, 0, 0]) for image in part.images}
    assert len(seen) == 10 and part.phrases == ("cat", "big dog")
    two = make_set("two", [shade if shade in seen else 255 - shade for shade in shades.tolist()])
    three = make_set("three", [255 - shade if shade in seen else shade for shade in shades.tolist()])
    made = []
    for data in (one, two, three):
        pretrain_public(tmp_path / f"of-{Path(data.name).name}", public_part(data), SMALL, "scratch", silent)
        made.append(contents(tmp_path / f"of-{Path(data.name).name}"))
    assert made[0] == made[1] and made[0] != made[2]


def test_clients_may_not_hold_what_the_foundation_saw(made: Made, tmp_path: Path) -> None:
    for share in (0.5, 0.7):
        refuse_seen(made[0], Data(public_share=share))
    with pytest.raises(SettingError, match="has seen 0.5 of digits; data.public-share = 0.4 .*set it to at least 0.5"):
        refuse_seen(made[0], Data(public_share=0.4))
    with pytest.raises(SettingError, match="has seen 0.5 of digits, wherever that lies; .*set data.public-share=0.5"):
        refuse_seen(made[0], Data(public_where="domain=a"))
    refuse_seen(tmp_path, Data())
    (tmp_path / "recipe.json").write_text('{"data": {"public_share": 0.5, "labels_sha256": "of another set"}}')
    refuse_seen(tmp_path, Data())


# How good it is


@pytest.mark.long
def test_the_judge_agrees_with_what_was_asked_for(digits: PublicPart) -> None:
    """The embedded foundation before a judge of its own kind of digits, and before one that calls them otherwise."""
    folder = asset_folder("glyph")
    assert folder is not None
    images, _, labels = glyph_batch(font_masks(), 3000, generator(0, "rendered"))
    drawn = ((images + 1) * 127.5).round().to(torch.uint8)
    rendered = dataclasses.replace(digits, images=drawn, labels=labels, templates=("a photo of a {class}",))
    good = judged_public(folder, rendered, 0, [1.5], 20)
    assert good["judge_on_real"] > 0.5 and good["judge_on_drawn"] > 0.4
    assert good["drawn_by_guidance"] == {"1.5": good["judge_on_drawn"]}
    ((worst, share),) = good["worst_class"].items()
    assert worst in WORDS and share <= good["judge_on_drawn"]
    turned = dataclasses.replace(rendered, phrases=(*WORDS[5:], *WORDS[:5]))
    assert judged_public(folder, turned, 0, [1.5], 20)["judge_on_drawn"] < 0.2


def test_a_guidance_is_chosen_on_half_of_the_images_and_judged_on_the_others(
    digits: PublicPart, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is right for no class at first and for all later, one the other way round, one always for half."""
    seen = {1.0: [[0.0], [1.0]], 2.0: [[1.0], [0.0]], 3.0: [[0.5], [0.5]]}

    def drawn(folder: Path, public: PublicPart, seed: int, guidance: float, count: int) -> torch.Tensor:
        shares = torch.tensor(seen[guidance]).repeat_interleave(2, 0)
        return (shares * 10)[..., None, None, None].expand(4, 10, 3, 2, 2)

    def correct(judge: object, images: torch.Tensor, labels: torch.Tensor) -> int:
        return int((images[:, 0, 0, 0] > labels).sum())

    for name, stub in (
        ("_drawn", drawn),
        ("correct", correct),
        ("trained_judge", lambda *_: None),
        ("fit", lambda *_, **__: None),
    ):
        monkeypatch.setattr(f"fedwarm.diffusion.pretraining.quality.{name}", stub)
    found = judged_public(tmp_path, digits, 0, [1.0, 2.0, 3.0], 40)
    assert found["drawn_by_guidance"] == {"1": 0.5, "2": 0.5, "3": 0.5}
    assert found["judge_on_drawn"] == 0.0, "2 is best on the first half, and right for none of the second"
    assert judged_public(tmp_path, digits, 0, [1.0, 3.0], 40)["judge_on_drawn"] == 0.5
    assert judged_public(tmp_path, digits, 0, [2.0], 40)["judge_on_drawn"] == 0.5, "there is nothing to choose"


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    """Training sets torch's threads."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_the_folder_holds_a_pipeline_its_templates_and_its_record(made: Made) -> None:
    assert sorted(path.name for path in made[0].iterdir()) == [
        "model_index.json", "prompts.txt", "recipe.json", "scheduler", "text_encoder", "tokenizer", "unet", "vae",
    ]  # fmt: skip

"""Real images as synthetic ones: of another table, of the public part, and transforms of the client's own."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from fedwarm.augmentations.gen_fedsd.amounts import global_target
from fedwarm.augmentations.gen_fedsd.fill import fill
from fedwarm.augmentations.gen_fedsd.providers import provider_of
from fedwarm.augmentations.gen_fedsd.providers.file import Chosen
from fedwarm.augmentations.gen_fedsd.providers.transforms import Transformed
from fedwarm.augmentations.gen_fedsd.transforms import kinds, transformed
from fedwarm.catalogue import parse
from fedwarm.data import Shard, load_pooled, load_shard, partition_table
from fedwarm.data.sets.digits import digits_table
from fedwarm.data.settings import Data
from fedwarm.diffusion.sentences import WORDS
from fedwarm.launch.preflight import check_run
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError, Value

Configure = Callable[..., Config]


def png(value: int) -> dict[str, bytes]:
    file = io.BytesIO()
    Image.new("L", (8, 8), value).save(file, "PNG")
    return {"bytes": file.getvalue()}


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder whose pictures are shaded 10 label + number; four images of class Two, three of ONE, two of zero."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    names, labels = ["Two", "ONE", "zero"], [0, 1, 2, 0, 1, 2, 0, 1, 0]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    pictures = [png(10 * label + labels[:row].count(label)) for row, label in enumerate(labels)]
    folder = tmp_path / "set"
    folder.mkdir()
    datasets.Dataset.from_dict({"image": pictures, "label": labels}, features=features).to_parquet(folder / "train.parquet")
    return str(folder)


def shades(source: Chosen, label: int, indices: list[int]) -> list[int]:
    drawn, made = source.take(0, label, indices)
    assert made == 0 and drawn.images.shape == (len(indices), 3, 32, 32) and drawn.indices.tolist() == indices
    assert all(len(image.unique()) == 1 for image in drawn.images)
    return [int(image[0, 0, 0]) for image in drawn.images]


def test_classes_are_matched_by_name(configure: Configure, table: str, tmp_path: Path) -> None:
    source = Chosen(configure(provider="file", file=table), ("zero", "one", "two"), tmp_path)
    assert [source.stock(label) for label in range(3)] == [2, 3, 4]
    assert shades(source, 0, [1, 0]) == [21, 20]
    assert shades(source, 1, [0, 2]) == [10, 12]
    assert shades(source, 2, [3]) == [3] and shades(source, 2, []) == []


def test_a_table_that_lacks_a_class_or_is_none(configure: Configure, table: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"gen-fedsd.file = .* has no class 'three'.*; it has Two, ONE, zero"):
        Chosen(configure(provider="file", file=table), ("zero", "three"), tmp_path)
    with pytest.raises(SettingError, match="no class 'One'"):
        Chosen(configure(provider="file", file=table), ("One", "one"), tmp_path)
    with pytest.raises(SettingError, match="gen-fedsd.file = .*there is no such folder"):
        Chosen(configure(provider="file", file=str(tmp_path / "none")), WORDS, tmp_path)


def test_the_clients_own_table_is_refused(configure: Configure, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="is the clients' own data set.*'public' with data.public-share"):
        Chosen(configure(provider="file", file="digits"), WORDS, tmp_path)
    with pytest.raises(SettingError, match="needs data.public-share"):
        Chosen(configure(provider="file", file="public"), WORDS, tmp_path)


def test_the_clients_own_table_is_refused_however_it_is_spelled(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`fedwarm run` makes data.name absolute, and leaves gen-fedsd.file as it is given."""
    (tmp_path / "set").mkdir()
    (tmp_path / "link").symlink_to("set")
    monkeypatch.chdir(tmp_path)
    for file in ("set", "./set", f"{tmp_path}/set/", "link"):
        with pytest.raises(SettingError, match="is the clients' own data set"):
            Chosen(configure(provider="file", file=file, data__name=str(tmp_path / "set")), WORDS, tmp_path)


def test_the_public_part_is_nobodys(configure: Configure, tmp_path: Path) -> None:
    config = configure(provider="file", file="public", data__public_share=0.3)
    source = provider_of(config, WORDS, tmp_path)
    assert isinstance(source, Chosen)
    pooled = load_pooled(replace(config.of(Data), max_examples=0), 0, 4)
    held = {image.numpy().tobytes() for image in torch.cat([pooled.train_images, pooled.test_images])}
    whole = digits_table(32)
    truth = {
        image.numpy().tobytes(): int(code) for image, code in zip(whole.images(np.arange(1797)), whole.label.codes, strict=True)
    }
    for label in range(10):
        count = source.stock(label) or 0
        assert count == round(0.3 * int((whole.label.codes == label).sum()))
        for image in source.take(0, label, range(count))[0].images:
            assert truth[image.numpy().tobytes()] == label and image.numpy().tobytes() not in held


# Transforms


@pytest.fixture(scope="module")
def shard(configure: Configure) -> Shard:
    config = configure()
    return load_shard(config.of(Data), 0, 1, 4)


def test_transforms_are_of_the_clients_own_class(configure: Configure, shard: Shard, tmp_path: Path) -> None:
    source = Transformed(configure(provider="transforms", transforms="crop"), shard.classes, tmp_path, shard)
    counts = shard.counts()
    held, lacked = counts.index(max(counts)), counts.index(0)
    drawn, made = source.take(1, held, range(60))
    assert made == 0 and drawn.images.shape == (60, 3, 32, 32) and len({i.numpy().tobytes() for i in drawn.images}) > 40
    own = shard.train_images[shard.train_labels == held]
    inner = {image[:, 8:24, 8:24].numpy().tobytes() for image in own}
    for image in drawn.images:
        shifted = {image[:, 8 + dy : 24 + dy, 8 + dx : 24 + dx].numpy().tobytes() for dy in range(-4, 5) for dx in range(-4, 5)}
        assert shifted & inner
    assert source.take(1, lacked, [])[0].images.shape == (0, 3, 32, 32) and source.stock(held) is None


def test_a_transform_is_a_function_of_client_class_and_index(configure: Configure, shard: Shard, tmp_path: Path) -> None:
    source, label = Transformed(configure(provider="transforms"), shard.classes, tmp_path, shard), int(shard.train_labels[0])
    whole = source.take(1, label, range(30))[0].images
    assert torch.equal(source.take(1, label, [29, 3])[0].images, whole[[29, 3]])
    assert not torch.equal(source.take(2, label, range(30))[0].images, whole)
    other = Transformed(configure(provider="transforms", seed=1), shard.classes, tmp_path, shard)
    assert not torch.equal(other.take(1, label, range(30))[0].images, whole)


def test_each_kind_does_what_it_says() -> None:
    rows, columns = torch.arange(16).view(-1, 1), torch.arange(16)
    image = torch.stack([rows * 10 + columns, 40 + columns + 0 * rows, 90 + rows + 0 * columns])[None].to(torch.uint8)

    def done(text: str) -> torch.Tensor:
        return transformed(image, range(200), kinds(text), np.random.default_rng(0))

    flipped = done("flip")
    turned = [torch.equal(one, image[0].flip(2)) for one in flipped]
    assert all(turned[i] or torch.equal(one, image[0]) for i, one in enumerate(flipped)) and 70 < sum(turned) < 130
    assert len({one.numpy().tobytes() for one in done("crop")}) == 25, "by up to two pixels of sixteen each way"
    coloured = done("colour").float()
    assert coloured.mean((2, 3)).std(0).min() > 2 and (coloured.mean() - image.float().mean()).abs() < 5
    assert len({one.numpy().tobytes() for one in done("crop, flip,colour")}) == 200


def test_nothing_becomes_nothing() -> None:
    none = torch.empty(0, 3, 8, 8, dtype=torch.uint8)
    assert transformed(none, [0, 1], kinds("crop"), np.random.default_rng(0)).shape == (0, 3, 8, 8)
    one = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    assert transformed(one, [], kinds("crop"), np.random.default_rng(0)).shape == (0, 3, 8, 8)


@pytest.mark.parametrize("text", ["", "crop,blur", "crop;flip"])
def test_kinds_that_there_are_not(text: str) -> None:
    with pytest.raises(SettingError, match="gen-fedsd.transforms = .* is not a list of transforms; choose from crop"):
        kinds(text)


@pytest.mark.parametrize(
    "more",
    [
        {"gen-fedsd.provider": "real", "data.public-share": 0.1},
        {"gen-fedsd.provider": "real", "data.public-share": 0.05, "gen-fedsd.rule": "global", "data.validation-fraction": 0.2},
        {"gen-fedsd.pool": 5},
    ],
    ids=str,
)
def test_what_is_not_enough_for_a_client_is_refused_before_the_run_by_its_own_words(
    more: dict[str, Value], tmp_path: Path
) -> None:
    flat: dict[str, Value] = {"method": "fedavg", "augment": "gen-fedsd", "data.partition": "pathological", **more}
    with pytest.raises(SettingError, match="client 0 lacks .* or data.public-share, give") as before:
        check_run(flat, 4)
    config = parse(flat)
    target = global_target(partition_table(config.of(Data), config.run.seed, 4))
    with pytest.raises(SettingError) as alone:
        fill(config, load_shard(config.of(Data), config.run.seed, 0, 4), 0, tmp_path, target)
    assert str(before.value) == str(alone.value)
    check_run({**flat, "gen-fedsd.allow-repeat": True}, 4)

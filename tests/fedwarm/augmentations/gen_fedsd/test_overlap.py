"""A file with images that clients hold, or are tested on, is refused by its pictures, whatever it is called."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
import torch
from PIL import Image

from fedwarm.augmentations.gen_fedsd.fill import fill
from fedwarm.augmentations.gen_fedsd.overlap import marks, refuse_held
from fedwarm.data import load_shard
from fedwarm.data.settings import Data
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError
from tests.sets import picture, write_split

Configure = Callable[..., Config]
CLIENTS = 2


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set of 20 training images, numbers 0 to 19, and 6 test images, numbers 100 to 105, of two classes."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write_split(tmp_path / "set", "train", [i % 2 for i in range(20)])
    write_split(tmp_path / "set", "test", [i % 2 for i in range(6)], 100)
    return tmp_path


@pytest.fixture
def config(configure: Configure, place: Path) -> Callable[..., Config]:
    def make(file: str, **more: str) -> Config:
        given = {"data__name": str(place / "set"), "data__image_size": 8, "data__partition": "iid", "data__max_examples": 4}
        return configure(provider="file", file=str(place / file), **given, **more)

    return make


def test_a_few_of_the_clients_images_are_enough(place: Path, config: Callable[..., Config]) -> None:
    """Number 16 of class 0 lies among others, saved anew without compression."""
    write_split(place / "mixed", "train", [0, 1] * 5, 300)
    rows = datasets.load_dataset(str(place / "mixed"), split="train").cast_column("image", datasets.Image(decode=False)).to_list()
    again = io.BytesIO()
    Image.open(io.BytesIO(picture(0, 16)["bytes"])).save(again, "PNG", compress_level=0)
    assert again.getvalue() != picture(0, 16)["bytes"]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    mixed = [*rows[:7], {"image": {"bytes": again.getvalue()}, "label": 0}, *rows[7:]]
    (place / "again").mkdir()
    datasets.Dataset.from_list(mixed, features=features).to_parquet(place / "again" / "train.parquet")
    refuse_held(config("mixed"), CLIENTS)
    with pytest.raises(SettingError, match=r"gen-fedsd.file = .*again' has 1 images that clients hold .* first in row 7; take"):
        refuse_held(config("again"), CLIENTS)


def test_the_test_split_counts_where_it_is_tested_on(place: Path, config: Callable[..., Config]) -> None:
    write_split(place / "tests", "train", [i % 2 for i in range(6)], 100)
    refuse_held(config("tests"), CLIENTS)
    for test in ("split", "central"):
        with pytest.raises(SettingError, match="has 6 images that clients hold or are tested on"):
            refuse_held(config("tests", data__test=test), CLIENTS)


def test_a_client_refuses_its_own(place: Path, config: Callable[..., Config], tmp_path: Path) -> None:
    """As where no one machine has all the data."""
    write_split(place / "copy", "train", [i % 2 for i in range(20)])
    wanting = config("copy", gen_fedsd__rule="fixed", gen_fedsd__fixed=10)
    with pytest.raises(SettingError, match="images that client 1 holds or is tested on"):
        fill(wanting, load_shard(wanting.of(Data), 0, 1, CLIENTS), 1, tmp_path)


def test_pictures_of_one_colour_say_nothing() -> None:
    noise = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    plain = torch.tensor([9, 8, 7], dtype=torch.uint8)[:, None, None].expand(1, 3, 4, 4)
    found = list(marks(torch.cat([noise, plain])))
    assert found[2] == b"" and len({*found}) == 3 and list(marks(noise)) == found[:2]
    assert list(marks(torch.empty(0, 3, 4, 4, dtype=torch.uint8))) == []

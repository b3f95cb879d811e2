"""Pictures in their own proportions at a size of one's own, of the same rows as a client's shard."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fedwarm.data.own import Holding
from fedwarm.data.pictures import proportioned
from fedwarm.data.settings import Data
from fedwarm.data.shards import load_shard, open_table, originals_of
from fedwarm.data.tables import private_part

WIDE, HIGH = 48, 32


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """A folder of 24 pictures of 48 x 32 pixels: the left third in a colour of each picture's own, the rest grey."""
    folder = tmp_path_factory.mktemp("wide")
    for number in range(24):
        pixels = np.full((HIGH, WIDE, 3), 128, dtype=np.uint8)
        pixels[:, : WIDE // 3] = (10 * number, 255 - 10 * number, 0)
        place = folder / "train" / ("even", "odd")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number:02}.png")
    return Data(name=str(folder), partition="iid", image_size=8)


def colours(pictures: list[Tensor]) -> list[int]:
    """The red of each picture's left edge."""
    return [int(picture[0, 0, 0]) for picture in pictures]


def test_originals_keep_their_proportions_and_belong_to_the_shard(data: Data) -> None:
    shard, found = load_shard(data, 3, 1, 2), originals_of(data, 3, 1, 2)
    assert found is not None and len(found) == len(shard.train_labels)
    pictures = found.at(range(len(found)), 16)
    assert all(picture.shape == (3, 16, 24) and picture.dtype == torch.uint8 for picture in pictures)
    assert colours(pictures) == shard.train_images[:, 0, 0, 0].tolist()
    assert colours(found.at([2, 0], 16)) == colours([pictures[2], pictures[0]])


def test_a_square_picture_is_read_as_a_classifier_reads_it(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    for number in range(6):
        place = tmp_path / "train" / "one"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(256, size=(20, 20, 3), dtype=np.uint8)).save(place / f"{number}.png")
    data = Data(name=str(tmp_path), partition="iid", image_size=8)
    table = open_table(data)
    assert table.originals is not None
    assert torch.equal(torch.stack(table.originals(np.arange(6), 8)), table.images(np.arange(6)))


def test_turned_clients_turn_their_originals(data: Data) -> None:
    turned = originals_of(replace(data, rotation=90.0), 3, 1, 2)
    plain = originals_of(data, 3, 1, 2)
    assert turned is not None and plain is not None and turned.degrees > 0
    assert not torch.equal(turned.at([0], 16)[0], plain.at([0], 16)[0])


def test_the_private_part_has_its_own_rows(data: Data) -> None:
    table = open_table(data)
    private, rows = private_part(table, 0.5)
    assert private.originals is not None and table.originals is not None and len(rows) < len(table)
    assert colours(private.originals(np.arange(3), 8)) == colours(table.originals(rows[:3], 8))


def test_data_in_memory_have_none() -> None:
    assert Holding(Data(), 0, 0, 4).originals() is None


@pytest.mark.parametrize(
    ("size", "side", "shape"), [((30, 20), 8, (3, 8, 12)), ((20, 61), 10, (3, 30, 10)), ((7, 7), 16, (3, 16, 16))]
)
def test_the_shorter_side_gets_the_size(size: tuple[int, int], side: int, shape: tuple[int, ...]) -> None:
    assert proportioned(Image.new("L", size, 7), side).shape == shape

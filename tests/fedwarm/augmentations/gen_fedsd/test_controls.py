"""Controls of Gen-FedSD: real images of the public part, and training on synthetic images alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedwarm.augmentations.gen_fedsd.client import SYNTHETIC, GenFedSdClient
from fedwarm.augmentations.gen_fedsd.providers.file import Chosen
from fedwarm.augmentations.gen_fedsd.providers.real import Public
from fedwarm.catalogue import parse
from fedwarm.core.store import Store
from fedwarm.data import load_shard
from fedwarm.data.node import Node
from fedwarm.data.settings import Data
from fedwarm.data.shards import open_table
from fedwarm.settings.fields import SettingError, Value

FLAT: dict[str, Value] = {
    "method": "gen_fedsd", "data.image-size": 8, "data.public-share": 0.3, "data.max-examples": 30, "gen-fedsd.provider": "real",
}  # fmt: skip


def test_real_images_are_those_of_the_public_part(tmp_path: Path) -> None:
    config = parse(FLAT)
    classes = open_table(config.of(Data)).label.names
    given = Chosen(parse({**FLAT, "gen-fedsd.provider": "file", "gen-fedsd.file": "public"}), classes, tmp_path)
    mine = Public(config, classes, tmp_path)
    assert mine.stock(3) == given.stock(3) > 10
    assert torch.equal(mine.find(0, 3, [4, 1]).images, given.find(0, 3, [4, 1]).images)


def test_without_a_public_part_there_are_none(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="needs data.public-share or data.public-where"):
        Public(parse({**FLAT, "data.public-share": 0.0}), ["zero"], tmp_path)


def client(tmp_path: Path, images: int, **more: Value) -> tuple[GenFedSdClient, torch.Tensor]:
    found = GenFedSdClient(parse({**FLAT, **more}), Node(0, 4, Store(tmp_path, "ab", 0)))
    drawn = torch.zeros(images, 3, 8, 8, dtype=torch.uint8)
    found.node.store.save(SYNTHETIC, {"images": drawn, "labels": torch.arange(images) % 10}, 0)
    return found, drawn


def test_clients_may_train_on_synthetic_images_alone(tmp_path: Path) -> None:
    """The real ones stay what is tested on, and the weight is that of what is trained on."""
    part, drawn = client(tmp_path, 12, **{"gen-fedsd.keep-real": False})
    real = load_shard(parse(FLAT).of(Data), 0, 0, 4)
    held = part.data(real)
    assert torch.equal(held.train_images, drawn) and torch.equal(held.test_images, real.test_images)
    assert part.weight(real, held) == 12
    both, _ = client(tmp_path / "both", 12)
    assert len(both.data(real).train_labels) == len(real.train_labels) + 12


def test_a_client_without_any_is_told_what_to_do(tmp_path: Path) -> None:
    part, _ = client(tmp_path, 0, **{"gen-fedsd.keep-real": False})
    with pytest.raises(SettingError, match="client 0 has no synthetic images.*gen-fedsd.rule = 'fixed'"):
        part.data(load_shard(parse(FLAT).of(Data), 0, 0, 4))

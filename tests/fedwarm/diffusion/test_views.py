"""Squares of originals and their mirror images: which, how many, and from where."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from clients.warmfed import WarmFedClient
from fedwarm.catalogue import parse
from fedwarm.core.seeds import generator
from fedwarm.core.store import Store
from fedwarm.data.node import Node
from fedwarm.data.originals import Originals
from fedwarm.diffusion.foundation import Foundation, load_foundation
from fedwarm.diffusion.sampling import sample
from fedwarm.diffusion.settings import Diffusion
from fedwarm.diffusion.tuning import Tuning, tune_adapter
from fedwarm.diffusion.views import PLACES, Views, cut
from fedwarm.settings.fields import SettingError

LONG = 20


def ramps(rows: np.ndarray, side: int) -> list[Tensor]:
    """Pictures of `side` x 20 pixels that hold the number of the row, the row and the column of a pixel."""
    down, across = torch.meshgrid(torch.arange(side), torch.arange(LONG), indexing="ij")
    return [torch.stack([torch.full_like(down, int(row)), down, across]).to(torch.uint8) for row in rows]


def views(count: int = 3, single: bool = False, originals: bool = True, **changes: object) -> Views:
    images = torch.stack([torch.full((3, 4, 4), i, dtype=torch.uint8) for i in range(count)])
    own = Originals(ramps, np.arange(count)) if originals else None
    return Views(images, own, 8, Diffusion(**changes), generator(0, "views"), single)  # type: ignore[arg-type]


def test_the_middle_of_every_original() -> None:
    found = views()
    whole = torch.cat([*found.split(2)])
    assert found.each == 1 and found.whole is found and whole.shape == (3, 3, 8, 8)
    assert whole[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert (whole[:, 2, 0, 0] == 6).all() and (whole[:, 2, 0, 7] == 13).all()


def test_random_places_are_drawn_once() -> None:
    found, again = views(crop="random"), views(crop="random")
    first, second = torch.cat([*found.split(5)]), torch.cat([*again.split(3)])
    assert found.each == PLACES and torch.equal(first, second) and torch.equal(first, torch.cat([*found.split(1)]))
    assert first[:, 0, 0, 0].tolist() == [0] * PLACES + [1] * PLACES + [2] * PLACES
    assert len({int(left) for left in first[:, 2, 0, 0]}) > 3 and int(first[:, 2].max()) < LONG


def test_mirror_images_stand_beside_their_pictures() -> None:
    whole = torch.cat([*views(flip=True).split(4)])
    assert whole[:, 0, 0, 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(whole[0::2].flip(-1), whole[1::2])


def test_private_training_has_one_of_each() -> None:
    found = views(count=40, single=True, crop="random", flip=True)
    whole = torch.cat([*found.split(16)])
    assert found.each == 1 and whole[:, 0, 0, 0].tolist() == [*range(40)]
    rising = (whole[:, 2, 0, 7].int() - whole[:, 2, 0, 0].int()) > 0
    assert 0 < int(rising.sum()) < 40


def test_without_originals_the_images_are_what_they_were() -> None:
    found = views(originals=False, crop="random")
    assert found.whole is found.images and found.each == 1
    assert torch.cat([*views(originals=False, flip=True).split(2)]).shape == (6, 3, 4, 4)


def test_a_square_keeps_within_its_picture() -> None:
    picture = torch.arange(3 * 5 * 9).view(3, 5, 9)
    assert torch.equal(cut(picture, 0.0, 0.999), picture[:, :, 4:]) and torch.equal(cut(picture, 0.9, 0.0), picture[:, :, :5])


def test_tuning_reads_views_as_it_reads_images(foundation: Foundation, settings: Diffusion, sentences: list[str]) -> None:
    """The same squares in memory and read a few at a time give the same adapter."""
    lazy = Views(
        torch.zeros(6, 3, 4, 4, dtype=torch.uint8), Originals(ramps, np.arange(6)), 8, settings, generator(0, "x"), False
    )
    labels = torch.arange(6)
    states = [
        tune_adapter(Tuning(foundation, images, labels, sentences, settings, 0, 0))
        for images in (lazy, torch.cat([*lazy.split(6)]))
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_client_tunes_on_its_originals_at_the_foundations_size(
    pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures of 80 x 64 pixels: the classifier sees 8 x 8, the adapter 32 x 32 and, if asked to, 64 x 64."""
    from PIL import Image

    draws, seen = np.random.default_rng(0), []
    for number in range(12):
        place = tmp_path / "set" / "train" / ("a", "b")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(256, size=(64, 80, 3), dtype=np.uint8)).save(place / f"{number}.png")
    monkeypatch.setattr("fedwarm.diffusion.tuners.tune_adapter", lambda tuning, *_: seen.append(tuning) or {})
    for size in (0, 64):
        config = parse({
            "data.name": str(tmp_path / "set"), "data.partition": "iid", "data.image-size": 8, "device": "cpu",
            "diffusion.foundation": str(pipeline_folder), "diffusion.image-size": size, "diffusion.flip": True,
        })  # fmt: skip
        client = WarmFedClient(config, Node(0, 2, Store(tmp_path / "store", "a", 0)))
        client._tuned(load_foundation(config.of(Diffusion), "cpu"), ["a", "b"])
        tuning = seen[-1]
        assert len(tuning.images) == len(tuning.labels) == 2 * len(client.shard.train_labels)
        assert tuning.latents(tuning.images).shape[-1] == (size or 32) // 4 and client.shard.train_images.shape[-1] == 8
        first = next(iter(tuning.images.split(1)))
        assert first.shape[-1] == (size or 32) and float(first.float().std()) > 20  # noise that 8 pixels do not hold


def test_images_are_drawn_at_the_size_that_was_tuned(pipeline_folder: Path, settings: Diffusion) -> None:
    larger = load_foundation(dataclasses.replace(settings, image_size=64), "cpu")
    assert (larger.image_size, larger.latent_size) == (64, 16)
    assert sample(larger, ["one"], [0], settings, 64).shape == (1, 3, 64, 64)
    with pytest.raises(
        SettingError, match="diffusion.image-size = 36 is no multiple of 8, as this foundation needs; set it to 32"
    ):
        load_foundation(dataclasses.replace(settings, image_size=36), "cpu")

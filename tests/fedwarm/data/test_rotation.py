"""Covariate shift by rotation: one angle a client, the same in every process, for training and for testing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fedwarm.data.rotation import angle_of, rotated
from fedwarm.data.settings import Data
from fedwarm.data.shards import all_tests, load_pooled, load_shard
from fedwarm.settings.fields import SettingError

PLAIN = Data(image_size=8, partition="iid", max_examples=12)
TURNED = replace(PLAIN, rotation=360.0)


def test_right_angles_turn_pixels_and_nothing_is_lost() -> None:
    images = torch.randint(0, 256, (2, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    for quarter in range(4):
        assert torch.equal(rotated(images, 90.0 * quarter), torch.rot90(images, quarter, (2, 3)))


def test_an_angle_is_a_clients_own_and_within_its_bounds() -> None:
    angles = [angle_of(replace(PLAIN, rotation=90.0), 3, k) for k in range(40)]
    assert len(set(angles)) == 40 and all(0 <= a < 90 for a in angles) and max(angles) > 60
    bins = [angle_of(replace(PLAIN, rotation=360.0, rotation_bins=8), 3, k) for k in range(400)]
    assert {*bins} <= {45.0 * k for k in range(8)}
    assert 0.4 < bins.count(0.0) / 400 < 0.6 and 0.15 < bins.count(45.0) / 400 < 0.35


def test_a_shard_is_turned_whole_and_the_pool_is_the_shards() -> None:
    plain, turned = (load_shard(data, 0, 1, 3) for data in (PLAIN, TURNED))
    degrees = angle_of(TURNED, 0, 1)
    assert torch.equal(turned.train_images, rotated(plain.train_images, degrees))
    assert torch.equal(turned.test_images, rotated(plain.test_images, degrees))
    assert torch.equal(turned.train_labels, plain.train_labels)
    pool = load_pooled(TURNED, 0, 3)
    assert torch.equal(pool.train_images[12:24], turned.train_images) and len(pool.train_images) == 36


def test_a_split_at_the_server_is_refused() -> None:
    with pytest.raises(SettingError, match=r"data.test = 'central' tests on images of no client"):
        all_tests(replace(TURNED, test="central"), 0, 3)


def test_a_nodes_own_folder_is_not_turned() -> None:
    assert TURNED.at("/data").rotation == 0.0

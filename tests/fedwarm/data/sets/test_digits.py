"""The embedded digits: the real scans, four looks, no heavy imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fedwarm.data import embedded
from fedwarm.data.scans import scans
from fedwarm.data.sets.digits import CLASSES, DOMAINS, digits_table, draw, from_hsv
from fedwarm.settings.fields import SettingError

ROOT = Path(__file__).parents[4]


def look_of(name: str) -> tuple[Tensor, Tensor]:
    """Images in [0, 1] and labels of one domain."""
    table = digits_table(32)
    rows = np.flatnonzero(table.column("domain").codes == DOMAINS.index(name))
    return table.images(rows).float() / 255, torch.from_numpy(table.label.codes[rows])


def border(images: Tensor) -> Tensor:
    """Mean colour of the four corners (n, 3): ground that no stroke reaches."""
    return torch.stack([images[:, :, y, x] for y in (0, -1) for x in (0, -1)]).mean(0)


def test_scans_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    shades, labels = scans()
    real = load_digits()
    assert shades.dtype == torch.uint8
    np.testing.assert_array_equal(shades.numpy(), real.images)
    np.testing.assert_array_equal(labels, real.target)
    assert len(CLASSES) == 10 and CLASSES[real.target[3]] == "three"


def test_domains_are_equal_parts_of_every_class() -> None:
    table = digits_table(32)
    counts = np.zeros((4, 10), dtype=int)
    np.add.at(counts, (table.column("domain").codes, table.label.codes), 1)
    assert counts.sum() == len(table) == 1797
    assert np.ptp(counts.sum(1)) <= 1
    assert np.ptp(counts, axis=0).max() <= 1


def test_domains_are_dealt_at_random() -> None:
    domain = digits_table(32).column("domain").codes
    runs = (np.diff(domain) == 0).mean()
    assert 0.2 < runs < 0.3


@pytest.mark.parametrize("size", [8, 28, 32, 64])
def test_images_have_the_size_asked_for(size: int) -> None:
    images = digits_table(size).images(np.arange(3))
    assert images.shape == (3, 3, size, size) and images.dtype == torch.uint8


def test_drawing_again_gives_the_same_pictures() -> None:
    shades, _ = scans()
    for look in DOMAINS:
        assert torch.equal(draw(shades[:20], look, 32), draw(shades[:20], look, 32))


def test_chalk_is_light_on_nearly_black() -> None:
    images, _ = look_of("chalk")
    assert border(images).max() < 0.15
    assert images.amax((1, 2, 3)).min() > 0.6
    assert (images.amax(1) - images.amin(1)).max() < 0.06


def test_ink_is_dark_on_light() -> None:
    images, _ = look_of("ink")
    assert border(images).min() > 0.7
    assert images.mean(1).amin((1, 2)).max() < 0.35


def test_neon_has_a_bright_stroke_of_another_hue_than_its_dark_ground() -> None:
    images, _ = look_of("neon")
    ground = border(images)
    stroke = images.flatten(2).gather(2, images.amax(1).flatten(1).argmax(1)[:, None, None].expand(-1, 3, 1))[:, :, 0]
    assert ground.amax(1).max() < 0.35
    assert stroke.amax(1).min() > 0.85
    assert (stroke.amax(1) - stroke.amin(1)).min() > 0.5
    assert F.cosine_similarity(stroke - stroke.mean(1, keepdim=True), ground - ground.mean(1, keepdim=True)).max() < 0.85
    assert len({int(channel) for channel in stroke.argmax(1)}) == 3


def test_tilt_is_thick_light_and_turned_to_either_side() -> None:
    images, _ = look_of("tilt")
    ground = border(images)
    assert ground.min() > 0.25 and ground.max() < 0.65
    assert (ground[:, 2] > ground[:, 0]).all()
    upright, _ = look_of("chalk")
    assert coverage(images).mean() > 1.15 * coverage(upright).mean()


def coverage(images: Tensor) -> Tensor:
    """Share of the pixels nearer to the stroke's colour than to the ground's (n,)."""
    grey = images.mean(1).flatten(1)
    return (grey > (grey.amax(1, keepdim=True) + grey.amin(1, keepdim=True)) / 2).float().mean(1)


def test_tilt_turns_by_12_to_28_degrees() -> None:
    bar = torch.zeros(200, 8, 8, dtype=torch.uint8)
    bar[:, :, 3:5] = 16
    pictures = draw(bar, "tilt", 64).float().mean(1)
    weight = pictures - pictures[:, :1, :1]
    place = torch.arange(64.0) - 31.5
    x, y = place.expand(64, 64), place[:, None].expand(64, 64)
    inside = weight * (x**2 + y**2 < 22**2)
    xy, xx, yy = ((inside * product).sum((1, 2)) for product in (x * y, x * x, y * y))
    degrees = torch.rad2deg(0.5 * torch.atan2(2 * xy, yy - xx))
    assert degrees.abs().min() > 10.5 and degrees.abs().max() < 29.5
    assert 0.35 < (degrees > 0).float().mean() < 0.65


@pytest.mark.parametrize("look", DOMAINS)
def test_digits_can_still_be_read(look: str) -> None:
    images, labels = look_of(look)
    shape = (images - border(images)[:, :, None, None]).abs().mean(1).flatten(1)
    shape = F.normalize(shape - shape.mean(1, keepdim=True))
    nearest_other = (shape @ shape.T - 2 * torch.eye(len(shape))).argmax(1)
    assert (labels[nearest_other] == labels).float().mean() > 0.9


def test_hsv_gives_the_corners_of_the_colour_circle() -> None:
    hue = torch.tensor([0.0, 1 / 3, 2 / 3, 1 / 6])
    one = torch.ones(4)
    expected = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]])
    assert torch.allclose(from_hsv(hue, one, one), expected, atol=1e-6)
    assert torch.allclose(from_hsv(hue, 0 * one, 0.4 * one), torch.full((4, 3), 0.4))


def test_without_scikit_learn_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "find_spec", lambda name: None)
    with pytest.raises(SettingError, match="data set of digits is read from scikit-learn, .*pip install scikit-learn"):
        scans()


def test_the_default_path_imports_nothing_heavy() -> None:
    code = (
        "import sys; from fedwarm.data.settings import Data; from fedwarm.data import *; s = load_shard(Data(), 0, 0, 4);"
        "d = Data(partition='iid'); load_shard(d, 0, 0, 100); load_pooled(Data(), 0, 4); partition_table(Data(), 0, 4);"
        "heavy = {'datasets', 'flwr_datasets', 'pandas', 'sklearn', 'torchvision', 'scipy', 'PIL', 'flwr', 'matplotlib'};"
        "print(len(s.train_images), sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split(maxsplit=1) == ["338", "[]\n"]

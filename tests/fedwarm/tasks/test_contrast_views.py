"""Views: by torchvision, from the generator that is handed over alone, and fit for what is seen."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from fedwarm.tasks.contrast.views import Views, box, flips, view

STILL = Views(crop=1.0, flip="no", jitter=0.0, noise=0.0)


def images(grey: bool = False, size: int = 8) -> Tensor:
    found = torch.rand(5, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return found[:, :1].expand(found.shape).contiguous() if grey else found


def seen(settings: Views, mirrored: bool = False, seed: int = 1, grey: bool = False) -> Tensor:
    return view(images(grey), settings, mirrored, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("grey", [False, True])
def test_the_generator_alone_decides(grey: bool) -> None:
    world = torch.get_rng_state()
    first, again, other = (seen(Views(), seed=seed, grey=grey) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), world)
    assert first.shape == images().shape and first.min() >= -1 and first.max() <= 1


def test_without_transforms_a_view_is_the_image() -> None:
    torch.testing.assert_close(seen(STILL), images(), atol=1e-6, rtol=0)


def test_some_are_mirrored_as_torchvision_has_it() -> None:
    found, mirrored = seen(STILL, True), functional.horizontal_flip_image(images())
    alike = [torch.allclose(a, b, atol=1e-6) for a, b in zip(found, mirrored, strict=True)]
    kept = [torch.allclose(a, b, atol=1e-6) for a, b in zip(found, images(), strict=True)]
    assert any(alike) and any(kept) and all(a != k for a, k in zip(alike, kept, strict=True))


def test_crops_have_the_area_and_lie_inside() -> None:
    draws, areas = torch.Generator().manual_seed(0), []
    for numbers in torch.rand(500, 4, generator=draws).tolist():
        top, left, height, width = box(28, 0.3, *numbers)
        assert 0 <= top <= 28 - height and 0 <= left <= 28 - width
        areas.append(height * width / 784)
    assert min(areas) > 0.27 and 0.55 < sum(areas) / 500 < 0.7
    assert box(28, 0.3, 1.0 - 1e-9, 0.5, 0.9, 0.9) == (0, 0, 28, 28)


@pytest.mark.parametrize(
    ("names", "mirrored"),
    [
        (("0", "1"), False),
        (("zero", "nine"), False),
        (("a", "B"), False),
        (("cat", "dog"), True),
        (("0 - zero", "a"), True),
        ((), False),
    ],
)
def test_digits_and_letters_are_not_mirrored(names: tuple[str, ...], mirrored: bool) -> None:
    assert flips(Views(), names) is mirrored
    assert flips(Views(flip="yes"), names) and not flips(Views(flip="no"), names)


def test_grey_images_stay_grey_and_some_coloured_ones_become_so() -> None:
    found = seen(Views(noise=0.0), grey=True)
    assert torch.equal(found[:, :1].expand_as(found), found)
    turned = seen(Views(crop=1.0, jitter=0.0, noise=0.0, grey=1.0))
    torch.testing.assert_close(turned[:, :1].expand_as(turned), turned)
    assert (seen(Views(hue=0.2)) - seen(Views())).abs().max() > 0

"""Pools: so many images per class, each with its provenance, each a function of its own keys."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from fedwarm.core.seeds import derive
from fedwarm.core.spread import shared
from fedwarm.diffusion.foundation import Foundation
from fedwarm.diffusion.generate import Commission, Order, generate, generate_all
from fedwarm.diffusion.lora import adapter_state, attached, load_adapter
from fedwarm.diffusion.merged import drawing
from fedwarm.diffusion.pool import Pool, join
from fedwarm.diffusion.sampling import sample
from fedwarm.diffusion.settings import Diffusion

Fill = Callable[[dict[str, Tensor]], dict[str, Tensor]]


@pytest.fixture
def make(foundation: Foundation, settings: Diffusion, sentences: list[str]) -> Callable[..., Pool]:
    """A pool of 3 images of classes 2, 7 and 5 for client 4."""

    def run(
        adapter: Mapping[str, Tensor] | None = None,
        classes: tuple[int, ...] = (2, 7, 5),
        per_class: int = 3,
        seed: int = 1,
        client: int = 4,
        size: int = 32,
        draw: int = 0,
        **changes: Any,
    ) -> Pool:
        chosen = dataclasses.replace(settings, **changes)
        return generate(foundation, adapter, Order(sentences, classes, per_class, seed, client, size, draw), chosen)

    return run


Make = Callable[..., Pool]


@pytest.fixture(scope="module")
def strong(foundation: Foundation, settings: Diffusion, random_adapter: Fill) -> dict[str, Tensor]:
    """An adapter that changes every image."""
    with attached(foundation.pipe.unet, settings, 0, "strong"):
        return random_adapter(adapter_state(foundation.pipe.unet))


def test_every_image_says_where_it_came_from(make: Make, sentences: list[str]) -> None:
    pool = make()
    assert len(pool) == 9 and pool.images.shape == (9, 3, 32, 32) and pool.images.dtype == torch.uint8
    assert pool.labels.tolist() == [2, 2, 2, 7, 7, 7, 5, 5, 5]
    assert pool.clients.tolist() == [4] * 9
    assert pool.seeds.tolist() == [derive(1, "image", 4, c, i, 0) for c in (2, 7, 5) for i in range(3)]
    assert {pool.labels.dtype, pool.clients.dtype, pool.seeds.dtype} == {torch.int64}
    assert pool.prompts == tuple(sentences)
    assert len({image.numpy().tobytes() for image in pool.images}) == 9


def test_the_provenance_draws_the_image_again(foundation: Foundation, settings: Diffusion, make: Make) -> None:
    pool = make()
    asked = [pool.prompts[label] for label in pool.labels.tolist()]
    assert torch.equal(sample(foundation, asked, pool.seeds.tolist(), settings, 32), pool.images)


def test_so_does_the_provenance_of_an_adapters_image(
    foundation: Foundation, settings: Diffusion, make: Make, strong: dict[str, Tensor]
) -> None:
    pool = make(strong)
    asked = [pool.prompts[label] for label in pool.labels.tolist()]
    with drawing(foundation.pipe.unet, settings, strong):
        again = sample(foundation, asked, pool.seeds.tolist(), settings, 32)
    assert torch.equal(again, pool.images)
    with attached(foundation.pipe.unet, settings, 99, "any"):
        load_adapter(foundation.pipe.unet, strong)
        apart = sample(foundation, asked, pool.seeds.tolist(), settings, 32)
    assert int((apart.int() - pool.images.int()).abs().max()) <= 1
    assert not any(torch.equal(a, b) for a, b in zip(make().images, pool.images, strict=True))


def test_an_image_knows_nothing_of_the_others(make: Make, strong: dict[str, Tensor]) -> None:
    pool = make(strong)
    assert torch.equal(make(strong, classes=(7,)).images, pool.images[3:6])
    assert torch.equal(make(strong, per_class=1).images, pool.images[::3])
    assert torch.equal(make(strong, sample_batch_size=1).images, pool.images)


def test_a_draw_more_is_a_new_image(make: Make) -> None:
    first = make()
    for other in (make(draw=1), make(client=5), make(seed=2)):
        assert torch.equal(other.labels, first.labels)
        assert not set(other.seeds.tolist()) & set(first.seeds.tolist())
        assert not any(torch.equal(a, b) for a, b in zip(other.images, first.images, strict=True))
    assert torch.equal(make().images, first.images)


def test_whoever_draws_them_images_are_the_same_and_none_is_drawn_twice(
    foundation: Foundation, settings: Diffusion, sentences: list[str], strong: dict[str, Tensor]
) -> None:
    kept: dict[tuple[int, int], Tensor] = {}
    drawn: list[tuple[int, int]] = []

    def keeps(client: int, start: int, draw: Callable[[], Tensor]) -> Tensor:
        if (client, start) not in kept:
            kept[client, start] = draw()
            drawn.append((client, start))
        return kept[client, start]

    short = dataclasses.replace(settings, sample_steps=1)

    def pools() -> list[Pool]:
        orders = [Order(sentences, (2, 7), 26 + 16 * client, 1, client, 32) for client in range(3)]
        own = [Commission(order, strong if order.client else None, short, partial(keeps, order.client)) for order in orders]
        return generate_all(foundation, own)

    with shared(2):
        spread = pools()
    batches = [(client, start) for client in range(3) for start in range(0, 2 * (26 + 16 * client), 16)]
    assert sorted(drawn) == batches
    lost = [(0, 16), (2, 96)]
    drawn.clear()
    for job in lost:
        del kept[job]
    again = pools()
    assert drawn == lost
    for one, other in zip(spread, again, strict=True):
        assert torch.equal(one.images, other.images) and torch.equal(one.seeds, other.seeds)
    alone = generate(foundation, strong, Order(sentences, (2, 7), 58, 1, 2, 32), short)
    assert torch.equal(alone.images, spread[2].images) and torch.equal(alone.labels, spread[2].labels)


def test_no_adapter_is_prompts_only(foundation: Foundation, settings: Diffusion, make: Make) -> None:
    with attached(foundation.pipe.unet, settings, 0, "fresh"):
        fresh = adapter_state(foundation.pipe.unet)
    assert torch.equal(make(fresh).images, make(None).images)


def test_the_foundation_is_as_before(
    foundation: Foundation, make: Make, strong: dict[str, Tensor], digest: Callable[[nn.Module], str]
) -> None:
    before = digest(foundation.pipe.unet)
    bare = make(None).images
    make(strong)
    assert digest(foundation.pipe.unet) == before
    assert torch.equal(make(None).images, bare)
    with pytest.raises(ValueError, match="does not fit this foundation"):
        make(strong, rank=2)
    assert digest(foundation.pipe.unet) == before


@pytest.mark.parametrize(("classes", "per_class"), [((), 3), ((2, 7), 0)])
def test_an_empty_pool_joins_with_others(make: Make, classes: tuple[int, ...], per_class: int) -> None:
    empty, full = make(classes=classes, per_class=per_class), make()
    assert len(empty) == 0 and empty.images.shape == (0, 3, 32, 32)
    both = join([empty, full])
    assert torch.equal(both.labels, full.labels) and both.labels.dtype == torch.int64
    assert torch.equal(both.images, full.images) and both.clients.dtype == torch.int64


def test_pools_join_and_part_by_client(make: Make, strong: dict[str, Tensor]) -> None:
    mine, other = make(client=0), make(strong, client=1, per_class=1)
    both = join([mine, other])
    assert len(both) == 12
    for client, part in enumerate((mine, other)):
        images, labels = both.of_client(client)
        assert torch.equal(images, part.images) and torch.equal(labels, part.labels)


def test_the_size_asked_for(make: Make) -> None:
    assert make(size=16).images.shape == (9, 3, 16, 16)


def test_a_saved_pool_keeps_its_provenance(make: Make, tmp_path: Path) -> None:
    pool = make()
    pool.save(tmp_path / "private" / "pool.safetensors")
    assert [p.name for p in (tmp_path / "private").iterdir()] == ["pool.safetensors"]
    assert (tmp_path / "private" / "pool.safetensors").stat().st_mode & 0o077 == 0
    with safe_open(tmp_path / "private" / "pool.safetensors", "pt") as file:
        assert tuple(json.loads(file.metadata()["prompts"])) == pool.prompts
        for name in ("images", "labels", "clients", "seeds"):
            assert torch.equal(file.get_tensor(name), getattr(pool, name))

"""The pool of generated images: provenance, joins, and a file that only its owner may read."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from fedwarm.diffusion.pool import Pool, join

PROMPTS = ("a photo of a zero", "a photo of a one")


def pool(client: int, n: int) -> Pool:
    images = torch.randint(0, 256, (n, 3, 4, 4), generator=torch.Generator().manual_seed(client)).to(torch.uint8)
    return Pool(images, torch.arange(n) % 2, torch.full((n,), client), torch.arange(n) + 100 * client, PROMPTS)


def test_images_are_found_by_their_client() -> None:
    parts = [pool(0, 3), pool(2, 4), pool(5, 1)]
    joined = join(parts)
    assert len(joined) == 8 and joined.prompts == PROMPTS
    for part in parts:
        images, labels = joined.of_client(int(part.clients[0]))
        assert torch.equal(images, part.images) and torch.equal(labels, part.labels)
    assert [len(part) for part in joined.of_client(1)] == [0, 0]
    assert joined.seeds.tolist() == [0, 1, 2, 200, 201, 202, 203, 500]


def test_join_keeps_the_types() -> None:
    joined = join([pool(0, 2), pool(1, 0)])
    assert joined.images.dtype == torch.uint8 and joined.images.shape == (2, 3, 4, 4)
    assert joined.labels.dtype == joined.clients.dtype == joined.seeds.dtype == torch.int64


@pytest.mark.parametrize("n", [0, 5])
def test_the_file_holds_everything_and_only_its_owner_reads_it(tmp_path: Path, n: int) -> None:
    made, path = pool(3, n), tmp_path / "pool" / "pool-0.safetensors"
    made.save(path)
    with safe_open(path, "pt") as file:
        assert set(file.keys()) == {"images", "labels", "clients", "seeds"}
        for name in file.keys():  # noqa: SIM118
            assert torch.equal(file.get_tensor(name), getattr(made, name)), name
        assert tuple(json.loads(file.metadata()["prompts"])) == PROMPTS
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["pool-0.safetensors"]


def test_saving_again_replaces(tmp_path: Path) -> None:
    path = tmp_path / "pool.safetensors"
    pool(0, 2).save(path)
    pool(1, 3).save(path)
    with safe_open(path, "pt") as file:
        assert file.get_tensor("clients").tolist() == [1, 1, 1]
    assert len(list(tmp_path.iterdir())) == 1

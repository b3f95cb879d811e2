"""Copies of training images are found where they are, and not where nothing was copied; the report shows what was found."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from fedwarm.catalogue import parse
from fedwarm.core.seeds import generator
from fedwarm.data import load_shard
from fedwarm.data.settings import Data
from fedwarm.diffusion.copying import copying
from fedwarm.record.reading import read_run
from fedwarm.report.sections.copies import COMPONENT, found
from tests.report_page import results, write


def images(count: int, seed: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 8, 8), generator=generator(seed)).to(torch.uint8)


def test_without_copies_half_are_nearer_to_either() -> None:
    told = copying(images(400, 1), images(150, 2), images(50, 3), 0)
    assert told is not None and (told.drawn, told.references) == (400, 50)
    assert abs(told.nearer - 0.5) < 4 * told.error


def test_the_error_knows_how_few_images_decide() -> None:
    """A hundred copies of one image are one answer; 40 different ones of 400 are as many draws without return."""
    one = copying(images(1, 1).expand(100, -1, -1, -1), images(20, 2), images(20, 3), 0)
    assert one is not None and one.nearer in (0.0, 1.0) and one.error == 0.5
    training, held = images(200, 2), images(200, 3)
    many = copying(torch.cat([training[:20], held[:20]]), training, held, 0)
    assert many is not None and many.nearer == 0.5 and abs(many.error - 0.5 * (360 / 399 / 40) ** 0.5) < 0.015


def test_copies_with_noise_are_nearer_to_what_they_copy() -> None:
    """Every second image is a training image but for some noise, and all of these can be found."""
    training, held = images(60, 2), images(60, 3)
    noise = torch.randint(-9, 10, training.shape, generator=generator(4))
    copies = (training.long() + noise).clamp(0, 255).to(torch.uint8)
    told = copying(torch.cat([copies, images(60, 5)]), training, held, 0)
    assert told is not None and abs(told.nearer - 0.75) < 0.12
    same = copying(training, training, held, 0)
    assert same is not None and (same.nearer, same.training) == (1.0, 0.0) and same.held > 1


def test_a_distance_is_that_of_pixels() -> None:
    black, white = torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.full((1, 3, 8, 8), 255, dtype=torch.uint8)
    told = copying(black, white, black, 0)
    assert told is not None and (told.nearer, told.held) == (0.0, 0.0) and abs(told.training - (3 * 64) ** 0.5) < 1e-5
    assert copying(black, black[:0], black, 0) is None and copying(black[:0], black, black, 0) is None


def test_the_report_holds_a_client_s_images_against_its_own(tmp_path: Path) -> None:
    """Client 1's images are its training images, client 0's are noise."""
    document = results([0.5], method="warmfed", data__image_size=8)
    data = parse({"data.image-size": 8}).of(Data)
    shard = load_shard(data, 0, 1, 2)
    drawn = torch.cat([images(30, 6), shard.train_images[:40]])
    clients = torch.tensor([0] * 30 + [1] * 40)
    folder = write(tmp_path / "run", document)
    (folder / "pool").mkdir()
    save_file({"images": drawn, "clients": clients}, folder / "pool" / "pool-0.safetensors")
    run = read_run(folder)
    rows = found(run)
    assert [row["client"] for row in rows] == ["0", "1"] and [row["told"].drawn for row in rows] == [30, 40]
    assert rows[1]["told"].nearer > 0.5 and rows[0]["told"].nearer < rows[1]["told"].nearer
    shown = COMPONENT.shown(run)
    assert shown is not None and len(shown["rows"]) == 2
    (folder / "pool" / "pool-0.safetensors").unlink()
    assert found(run) == [] and COMPONENT.shown(run) is None

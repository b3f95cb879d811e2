"""Broken pictures: all named at once before clients start, or left out alike everywhere; pictures that show nothing."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from fedwarm.cli import app as cli
from fedwarm.data import gallery, load_shard
from fedwarm.data.checks import check_pictures, constancy, remarks
from fedwarm.data.hub import hub_table
from fedwarm.data.settings import Data
from fedwarm.data.shards import all_tests, open_table
from fedwarm.settings.fields import SettingError
from tests.fedwarm.data.conftest import MakePictures
from tests.fedwarm.data.test_pictures import saved

LINES = np.tile(np.array([0, 90], dtype=np.uint8), (16, 8))


def striped(shade: int) -> bytes:
    return saved(Image.fromarray(LINES + np.uint8(shade)))


def cut() -> bytes:
    """A JPEG file that ends too early: its header is whole, so that only decoding finds it."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    content = saved(Image.fromarray(noise), "JPEG")
    Image.open(io.BytesIO(content[: len(content) // 2])).verify()
    return content[: len(content) // 2]


def damaged() -> bytes:
    content = bytearray(saved(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8))))
    content[60:80] = b"\0" * 20
    return bytes(content)


FILES = [striped(i) for i in range(20)]
BROKEN = {3: cut(), 4: damaged(), 11: b"nothing", 17: b""}
MIXED = [BROKEN.get(i, file) for i, file in enumerate(FILES)]
NAMES = [f"p{i}.png" for i in range(20)]


@pytest.mark.parametrize("kept", [True, False])
def test_all_broken_pictures_are_named_at_once(pictures_of: MakePictures, monkeypatch: pytest.MonkeyPatch, kept: bool) -> None:
    if not kept:
        monkeypatch.setattr(gallery, "KEPT_BYTES", 0)
    data = pictures_of(MIXED, names=NAMES)
    hub_table.cache_clear()
    with pytest.raises(SettingError) as refused:
        check_pictures(data, 0, 4)
    text = str(refused.value)
    assert "4 pictures of column 'image' cannot be read: row 3 (p3.png: image file is truncated" in text
    for row in BROKEN:
        assert f"row {row} (p{row}.png: " in text
    assert "row 11 (p11.png: of no image format that PIL knows)" in text
    assert text.endswith("mend or remove them, or set data.skip-broken=true to leave them out") and "\n" not in text
    with pytest.raises(SettingError, match="cannot be read"):  # as before: what is broken is not kept
        [load_shard(data, 0, i, 4) for i in range(4)]


def test_of_many_the_first_few_are_named(pictures_of: MakePictures) -> None:
    data = pictures_of([b"x"] * 30 + FILES)
    with pytest.raises(SettingError, match=r"30 pictures .*row 0 .*row 4 \(.*\), and 25 more; mend"):
        check_pictures(data, 0, 2)


@pytest.mark.parametrize("kept", [True, False])
def test_broken_pictures_are_left_out_alike_everywhere(
    pictures_of: MakePictures, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    whole = pictures_of([file for i, file in enumerate(MIXED) if i not in BROKEN], [i % 2 for i in range(20) if i not in BROKEN])
    expected = [load_shard(whole, 0, i, 4) for i in range(4)]
    if not kept:
        monkeypatch.setattr(gallery, "KEPT_BYTES", 0)
    data = pictures_of(MIXED, skip_broken=True)
    for client in range(4):
        hub_table.cache_clear()  # a process of its own
        shard = load_shard(data, 0, client, 4)
        assert torch.equal(shard.train_images, expected[client].train_images)
        assert torch.equal(shard.test_labels, expected[client].test_labels)
    assert open_table(data).remarks() == ["broken pictures left out: 4"]
    assert check_pictures(data, 0, 4) == []


def test_a_picture_that_is_too_large_to_decode_is_broken(pictures_of: MakePictures, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(SettingError, match=r"row 0 \(Image size \(256 pixels\) exceeds limit"):
        check_pictures(pictures_of([striped(0), saved(Image.new("L", (9, 9)))] * 2), 0, 1)


def test_files_are_named_by_their_paths(pictures_of: MakePictures, tmp_path: Path) -> None:
    for i in range(4):
        for label in ("cat", "dog"):
            path = tmp_path / "set" / label / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(striped(i) if (i, label) != (2, "dog") else cut())
    data = pictures_of(FILES, name=str(tmp_path / "set"))
    with pytest.raises(SettingError, match=rf"row 6 \({tmp_path}/set/dog/2.png: image file is truncated"):
        check_pictures(data, 0, 2)


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["fedwarm", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(str(ended.value.code))


def test_a_run_ends_with_code_2_before_it_begins_or_goes_on_without(
    pictures_of: MakePictures, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out, threads = pictures_of(MIXED), tmp_path / "run", torch.get_num_threads()
    words = ["run", "fedavg", "--clients", "2", "--workers", "1", "--rounds", "1", "--out", str(out)]
    settings = f"data.name='{data.name}' data.partition='iid' data.image-size=8 model.name='logistic'"
    try:
        assert run(monkeypatch, *words, "-c", settings) == 2
        assert "4 pictures of column 'image' cannot be read: row 3 (" in capsys.readouterr().err
        assert not out.exists()
        assert run(monkeypatch, *words, "-c", f"{settings} data.skip-broken=true") == 0
    finally:
        torch.set_num_threads(threads)
    results = json.loads((out / "results.json").read_text())
    assert results["notes"] == ["clients 0, 1: broken pictures left out: 4"]
    assert sum(map(sum, results["partition"]["counts"])) == 12


def test_clients_whose_pictures_show_nothing_are_named(pictures_of: MakePictures) -> None:
    plain = [saved(Image.new("L", (8, 8), i)) for i in range(16)]
    assert check_pictures(pictures_of(plain), 0, 2) == [
        "every one of the 2 clients: each training picture is one plain colour; transparent ones are laid on "
        "data.background = 'white'"
    ]
    same = check_pictures(pictures_of([striped(7)] * 16), 0, 2)
    assert same[0].startswith("every one of the 2 clients: the training pictures are all the same")
    assert check_pictures(pictures_of(FILES), 0, 2) == []
    ghost = [saved(Image.new("RGBA", (8, 8), (i, 0, 0, 0))) for i in range(8)]
    mixed = pictures_of([*ghost, *FILES], [0] * 8 + [1] * 20, partition="pathological", classes_per_client=1)
    assert check_pictures(mixed, 0, 2)[0].startswith("client 0 of 2: the training pictures are all the same; transparent")


def test_one_picture_that_shows_something_is_enough(pictures_of: MakePictures) -> None:
    plain = [saved(Image.new("L", (8, 8), i)) for i in range(40)]
    shard = load_shard(pictures_of([*plain, striped(0)], test_fraction=0.02), 0, 0, 1)
    if (shard.train_images.flatten(2).amin(2) != shard.train_images.flatten(2).amax(2)).any():
        assert constancy(shard) == ""
    else:
        assert constancy(shard) != ""


def test_a_long_look_is_announced(pictures_of: MakePictures, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedwarm.data.checks.PATIENCE_SECONDS", -1.0)
    data = pictures_of(FILES)
    told: list[str] = []
    check_pictures(data, 0, 3, told.append)
    assert len(told) == 1 and told[0].startswith(f"looking at every picture of {data.name}, ")


def test_every_reader_of_pictures_reads_alike(pictures_of: MakePictures) -> None:
    """`gen-fedsd.file` and a foundation's public part: the ground, the range and what is left out are the run's."""
    from fedwarm.augmentations.gen_fedsd.real import unheld
    from fedwarm.cli.foundations import reading
    from fedwarm.diffusion.pretraining.captions import public_part

    ink = np.zeros((8, 8, 4), dtype=np.uint8)
    ink[:, :4, 3] = 255
    clear = [saved(Image.fromarray(ink, "RGBA")) for _ in range(8)]
    data = pictures_of([*clear, b"broken", b""], [0, 1] * 4 + [0, 1])
    table = unheld(data.name, Data(image_size=8, skip_broken=True))[0]
    assert len(table) == 8 and table.images(np.arange(8))[..., 4:].unique().tolist() == [255]
    settings = reading(data.name, ["data.background='black' data.skip-broken=true"])
    part = public_part(replace(settings, public_share=0.5, image_size=8))
    assert len(part.images) == 4 and part.images.unique().tolist() == [0]
    told = part.provenance()
    assert (told["background"], told["skip_broken"]) == ("black", True) and "bits" not in told


@pytest.mark.parametrize("test", ["split", "central"])
def test_broken_test_pictures_are_found_before_the_run(pictures_of: MakePictures, test: str) -> None:
    data = pictures_of(FILES, test=test)
    rows = [{"bytes": content, "path": None} for content in (striped(1), cut(), striped(2), cut())]
    split = datasets.Dataset.from_dict({"image": rows, "label": [0, 1, 0, 1]}).cast_column("image", datasets.Image(decode=False))
    split.to_parquet(Path(data.name) / "test.parquet")
    with pytest.raises(SettingError, match=r"split 'test' of .*: 2 pictures of .* cannot be read: row 1 \(.*row 3 \("):
        check_pictures(data, 0, 2)
    kept = replace(data, skip_broken=True)
    assert check_pictures(kept, 0, 2) == [] and len(all_tests(kept, 0, 2)[1]) == 2
    told = ["test split: broken pictures left out: 2"] if test == "split" else []
    assert remarks(kept, load_shard(kept, 0, 0, 2)) == told

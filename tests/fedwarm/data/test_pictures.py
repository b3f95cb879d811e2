"""What a file of a picture becomes: transparency, more than 8 bits, several frames, orientation."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from fedwarm.data import depth as depth_module
from fedwarm.data import load_shard
from fedwarm.data.checks import remarks
from fedwarm.data.hub import hub_table
from fedwarm.data.pictures import colour, opened, pixels
from fedwarm.data.settings import Data
from fedwarm.data.shards import open_table
from fedwarm.settings.fields import SettingError
from tests.fedwarm.data.conftest import MakePictures

SIDE = 8


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def read(content: bytes) -> Image.Image:
    return opened({"bytes": content, "path": None}).image


def chunked(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(
        struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in (*chunks, (b"IEND", b""))
    )
    return b"\x89PNG\r\n\x1a\n" + body


def png16(values: np.ndarray[Any, Any], clear: int | None = None) -> bytes:
    """A PNG file of 16 bits a channel, which PIL cannot write in colours: values (h, w) or (h, w, 3)."""
    height, width = values.shape[:2]
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, 2 if values.ndim == 3 else 0, 0, 0, 0)
    chosen = [(b"tRNS", struct.pack(">H", clear))] if clear is not None else []
    return chunked((b"IHDR", head), *chosen, (b"IDAT", zlib.compress(lines)))


def ink(mode: str) -> Image.Image:
    """Black ink on the left half, nothing on the right, whose hidden colour is black, too."""
    alpha = Image.fromarray(np.repeat(np.array([[255] * 4 + [0] * 4], dtype=np.uint8), SIDE, 0))
    image = Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0))
    image.putalpha(alpha)
    if mode == "PA":
        image = Image.new("PA", (SIDE, SIDE), 0)
        image.putpalette([0] * 768)
        image.putalpha(alpha)
    return image.convert(mode)


def palette(**options: Any) -> Image.Image:
    image = Image.fromarray(np.repeat(np.array([[0] * 4 + [1] * 4], dtype=np.uint8), SIDE, 0)).convert("P")
    image.putpalette([0] * 768)
    return read(saved(image, **options))


def bilevel(mode: str, clear: Any) -> Image.Image:
    """0 on the left, 10 on the right; what is 10 is clear."""
    values = np.repeat(np.array([[0] * 4 + [10] * 4], dtype=np.uint8), SIDE, 0)
    return read(saved(Image.fromarray(values).convert(mode), transparency=clear))


TRANSPARENT = {
    "RGBA": lambda: ink("RGBA"),
    "LA": lambda: ink("LA"),
    "La": lambda: ink("LA").convert("La"),
    "RGBa": lambda: ink("RGBa"),
    "PA": lambda: ink("PA"),
    "palette with a clear index": lambda: palette(transparency=1),
    "palette with alphas": lambda: palette(transparency=bytes([255, 0])),
    "L with a clear value": lambda: bilevel("L", 10),
    "RGB with a clear colour": lambda: bilevel("RGB", (10, 10, 10)),
    "16 bits with a clear value": lambda: read(png16(np.repeat([[0] * 4 + [10] * 4], SIDE, 0), clear=10)),
}


@pytest.mark.parametrize("kind", TRANSPARENT)
@pytest.mark.parametrize(("name", "shade"), [("white", (255, 255, 255)), ("black", (0, 0, 0)), ("#0080ff", (0, 128, 255))])
def test_what_is_transparent_shows_the_background(kind: str, name: str, shade: tuple[int, int, int]) -> None:
    picture = pixels(TRANSPARENT[kind](), SIDE, colour(name))
    assert (picture[:, :, :4] == 0).all(), "the ink stays as it is"
    assert (picture[:, :, 4:] == torch.tensor(shade)[:, None, None]).all()


def test_half_transparent_is_half_the_background() -> None:
    assert pixels(Image.new("RGBA", (SIDE, SIDE), (0, 100, 200, 51)), SIDE).unique().tolist() == [204, 224, 244]


def test_opaque_pictures_are_what_they_were() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 13, 3), dtype=np.uint8))
    opaque = image.copy()
    opaque.putalpha(255)
    assert torch.equal(pixels(opaque, SIDE, (9, 9, 9)), pixels(image, SIDE))


def test_the_background_is_a_setting(pictures_of: MakePictures) -> None:
    files = [saved(ink("RGBA"))] * 4
    for name, value in (("white", 255), ("black", 0)):
        shard = load_shard(pictures_of(files, background=name), 0, 0, 1)
        assert shard.train_images[..., 4:].unique().tolist() == [value]
    with pytest.raises(SettingError, match=r"data.background = 'whit' is no colour.*white.*give a name, e.g. white, or #rrggbb"):
        load_shard(pictures_of(files, background="whit"), 0, 0, 1)


def sixteen(values: Any) -> bytes:
    return saved(Image.fromarray(np.full((SIDE, SIDE), values, dtype=np.uint16)))


def tiff(values: Any, dtype: str) -> bytes:
    return saved(Image.fromarray(np.full((SIDE, SIDE), values).astype(dtype)), "TIFF")


def big_endian(values: Any) -> bytes:
    image = Image.frombytes("I;16B", (SIDE, SIDE), np.full((SIDE, SIDE), values, dtype=">u2").tobytes())
    return saved(image, "TIFF")


def shades(data: Data) -> list[int]:
    """The shade of each picture of one shade."""
    hub_table.cache_clear()
    table = open_table(data)
    images = table.images(np.arange(len(table)))
    assert (images.flatten(1).amin(1) == images.flatten(1).amax(1)).all()
    return [int(shade) for shade in images[:, 0, 0, 0]]


@pytest.mark.parametrize(
    ("files", "bits", "expected"),
    [
        ([sixteen(v) for v in (0, 2048, 4095)], 0, [0, 128, 255]),
        ([sixteen(v) for v in (0, 1, 1)], 0, [0, 255, 255]),
        ([sixteen(v) for v in (0, 100, 200)], 0, [0, 100, 200]),
        ([sixteen(v) for v in (0, 512, 1000)], 0, [0, 128, 249]),
        ([sixteen(v) for v in (0, 32768, 65535)], 0, [0, 128, 255]),
        ([sixteen(v) for v in (0, 2048, 4095)], 14, [0, 32, 64]),
        ([big_endian(v) for v in (0, 2048, 4095)], 0, [0, 128, 255]),
        ([tiff(v, "int32") for v in (0, 2048, 4095)], 0, [0, 128, 255]),
        ([tiff(v, "int32") for v in (0, 2**19, 2**20 - 1)], 20, [0, 128, 255]),
        ([tiff(v, "float32") for v in (0.0, 0.5, 1.0)], 0, [0, 128, 255]),
        ([tiff(v, "float32") for v in (0.0, 100.0, 255.0)], 0, [0, 100, 255]),
        ([tiff(v, "float32") for v in (0.0, 2048.0, 4095.0)], 12, [0, 128, 255]),
        ([tiff(v, "float32") for v in (0.0, 0.2, 0.4)], 1, [0, 51, 102]),
        ([saved(Image.new("L", (SIDE, SIDE), v)) for v in (0, 7, 200)], 12, [0, 7, 200]),
    ],
)
def test_values_of_more_than_8_bits_are_scaled_by_the_sets_own_range(
    pictures_of: MakePictures, files: list[bytes], bits: int, expected: list[int]
) -> None:
    assert shades(pictures_of(files, bits=bits)) == expected


@pytest.mark.parametrize(
    ("file", "bits", "message"),
    [
        (tiff(4095.0, "float32"), 0, "real numbers up to 4095 do not say which value is white; set data.bits, e.g. 12"),
        (tiff(70000, "int32"), 0, "whole numbers up to 70000 do not say .* set data.bits, e.g. 17"),
        (tiff(-7, "int32"), 0, "row 1 holds values from -7 to -7; bring them to 0 and more first"),
        (tiff(np.nan, "float32"), 0, r"row 1 \(it holds values that are no finite numbers\)"),
        (sixteen(4095), 10, r"row 1 holds 4095, more than the 1023 that is white \(data.bits\); set data.bits, e.g. 12"),
    ],
)
def test_ranges_that_cannot_be_told_are_refused(pictures_of: MakePictures, file: bytes, bits: int, message: str) -> None:
    data = pictures_of([sixteen(0), file], bits=bits)
    with pytest.raises(SettingError, match=message) as refused:
        load_shard(data, 0, 0, 1)
    assert "\n" not in str(refused.value)


def test_a_client_alone_scales_as_all_together(pictures_of: MakePictures) -> None:
    """Client by client in a process of its own each, whatever the client holds: the same as the whole set at once."""
    data = pictures_of([sixteen(40 * v) for v in range(100)])
    whole = shades(data)
    for row in (0, 50, 99):
        hub_table.cache_clear()
        assert int(open_table(data).images(np.array([row]))[0, 0, 0, 0]) == whole[row]
    assert whole[99] == round(40 * 99 * 255 / 4095)


def test_a_value_that_the_sample_lacked_is_refused(pictures_of: MakePictures, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedwarm.data.gallery.SAMPLE", 2)
    monkeypatch.setattr(depth_module, "SAMPLE", 2)
    data = pictures_of([sixteen(v) for v in (100, 300, 200, 250)])
    with pytest.raises(SettingError, match=r"row 1 holds 300, more than the 255 that is white \(found in 2 pictures\)"):
        shades(data)


def test_what_was_found_is_told(pictures_of: MakePictures) -> None:
    data = pictures_of([sixteen(v) for v in (100, 4000)])
    assert open_table(data).remarks() == []
    shades(data)
    assert open_table(data).remarks() == ["values of whole numbers: 4095 is white"]


def test_colours_of_16_bits_are_their_upper_halves_or_refused(pictures_of: MakePictures) -> None:
    full, dim = (np.full((SIDE, SIDE, 3), top, dtype=np.uint16) for top in (0x8040, 0x0FFF))
    assert shades(pictures_of([png16(full), png16(dim)])) == [128, 15]
    data = pictures_of([png16(dim)] * 2)
    with pytest.raises(SettingError, match=r"16 bits a channel and use 12 of them.*save them with 8 bits, or set data.bits=16"):
        shades(data)
    assert shades(pictures_of([png16(dim)] * 2, bits=16)) == [15, 15]


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG", "WEBP"])
def test_the_first_frame_is_the_picture(kind: str) -> None:
    frames = [Image.new("RGB", (SIDE, SIDE), (v, v, v)) for v in (60, 120, 180)]
    options = {"lossless": True} if kind == "WEBP" else {}
    content = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert getattr(Image.open(io.BytesIO(content)), "n_frames", 1) == 3
    assert pixels(read(content), SIDE).unique().tolist() == [60]


def test_pictures_stand_upright() -> None:
    halves = Image.fromarray(np.repeat(np.array([[0] * 4 + [255] * 4], dtype=np.uint8), SIDE, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    turned = pixels(read(saved(halves, exif=exif)), SIDE)
    assert (turned[:, :4] == 0).all() and (turned[:, 4:] == 255).all()


def test_the_test_split_is_as_white_as_the_training_split(pictures_of: MakePictures, tmp_path: Path) -> None:
    """Of 12 bits that the test split does not reach, and so, alone, would be taken for 10."""
    data = pictures_of([sixteen(v) for v in (0, 4095)] * 4, test="split")
    rows = datasets.Dataset.from_dict({"image": [{"bytes": sixteen(1000), "path": None}] * 4, "label": [0, 1] * 2})
    rows.cast_column("image", datasets.Image(decode=False)).to_parquet(Path(data.name) / "test.parquet")
    shard = load_shard(data, 0, 0, 1)
    assert shard.test_images.unique().tolist() == [round(1000 * 255 / 4095)] and len(shard.train_labels) == 8
    assert remarks(data, shard) == ["values of whole numbers: 4095 is white", "each training picture is one plain colour"]

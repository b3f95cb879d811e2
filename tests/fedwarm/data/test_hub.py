"""Parquet folders: columns found or given, pictures of many kinds, real data sets, and what is refused."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from fedwarm.data import default_clients, load_pooled, load_shard, partition_table
from fedwarm.data import gallery as gallery_module
from fedwarm.data.gallery import Gallery
from fedwarm.data.hub import hub_table, read
from fedwarm.data.pictures import pixels
from fedwarm.data.settings import Data
from fedwarm.data.shards import open_table
from fedwarm.settings.fields import SettingError

REAL = Path(__file__).parents[5] / "shared" / "data"
MakeSet = Callable[..., Data]


def png(value: int, size: tuple[int, int] = (12, 10), mode: str = "L") -> bytes:
    """A picture of one shade, as a PNG file."""
    file = io.BytesIO()
    Image.new(mode, size, value).save(file, "PNG")
    return file.getvalue()


def pictures(values: Sequence[int]) -> list[dict[str, bytes]]:
    return [{"bytes": png(value)} for value in values]


@pytest.fixture
def make_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeSet:
    """Writes columns to a folder of parquet files and gives the settings that read it."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()

    def make(columns: dict[str, Any], features: dict[str, Any] | None = None, split: str = "train", **changes: Any) -> Data:
        folder = tmp_path / "set"
        folder.mkdir(exist_ok=True)
        whole = datasets.Features(features) if features else None
        datasets.Dataset.from_dict(columns, features=whole).to_parquet(folder / f"{split}.parquet")
        return replace(Data(name=str(folder), partition="iid", image_size=8), **changes)

    return make


def test_class_names_come_from_the_features(make_set: MakeSet) -> None:
    names = datasets.ClassLabel(names=["cat", "dog", "newt"])
    data = make_set({"image": pictures([10] * 8), "label": [1, 0] * 4}, {"image": datasets.Image(), "label": names})
    shard = load_pooled(data, 0, 2)
    assert shard.classes == ("cat", "dog", "newt")
    assert np.bincount(torch.cat([shard.train_labels, shard.test_labels]), minlength=3).tolist() == [4, 4, 0]


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["b", "a", "b", "c"], ("a", "b", "c")),
        ([7, 30, 7, -2], ("-2", "7", "30")),
        ([True, False, True, True], ("False", "True")),
    ],
)
def test_class_names_are_else_the_sorted_values(make_set: MakeSet, values: list[Any], names: tuple[str, ...]) -> None:
    table = open_table(
        make_set({"img": pictures([1, 2, 3, 4]), "labels": values}, {"img": datasets.Image(), "labels": kind(values)})
    )
    assert table.label.names == names
    assert [table.label.names[code] for code in table.label.codes] == [str(value) for value in values]


def kind(values: list[Any]) -> datasets.Value:
    return datasets.Value({str: "string", int: "int32", bool: "bool"}[type(values[0])])


def test_plain_bytes_are_pictures_too(make_set: MakeSet) -> None:
    data = make_set({"picture": [png(v) for v in (0, 50, 100, 250)], "Label": [0, 1, 2, 3]})
    images = open_table(data).images(np.arange(4))
    assert images.shape == (4, 3, 8, 8) and images[:, 0, 0, 0].tolist() == [0, 50, 100, 250]


def test_columns_can_be_given(make_set: MakeSet) -> None:
    columns = {"image": pictures([1, 2, 3, 4]), "other": pictures([5, 6, 7, 8]), "label": [0, 0, 1, 1], "shape": [0, 1, 2, 3]}
    features = {"image": datasets.Image(), "other": datasets.Image(), "label": kind([0]), "shape": kind([0])}
    table = open_table(make_set(columns, features, image_column="other", label_column="shape"))
    assert table.images(np.arange(4))[:, 0, 0, 0].tolist() == [5, 6, 7, 8]
    assert table.label.names == ("0", "1", "2", "3")


def test_the_only_column_of_its_type_is_found(make_set: MakeSet) -> None:
    names = datasets.ClassLabel(names=["x", "y"])
    features = {"scan": datasets.Image(), "diagnosis": names, "note": datasets.Value("string")}
    table = open_table(make_set({"scan": pictures([1, 2]), "diagnosis": [1, 0], "note": ["", ""]}, features))
    assert table.label.names == ("x", "y") and table.label.codes.tolist() == [1, 0]


def test_the_test_split_is_left_alone(make_set: MakeSet) -> None:
    make_set({"image": pictures([200] * 6), "label": [0] * 6}, split="test")
    shard = load_pooled(make_set({"image": pictures([100] * 8), "label": [0, 1] * 4}), 0, 1)
    assert len(shard.train_labels) == 6 and len(shard.test_labels) == 2
    assert shard.test_images.unique().tolist() == [100]


@pytest.mark.parametrize(
    ("columns", "changes", "message"),
    [
        ({"image": [b"", b""], "subject": [1, 2]}, {}, "has no label column .* it has image, subject; set data.label-column"),
        ({"words": ["a", "b"], "label": [1, 2]}, {}, "has no image column .* it has words, label; set data.image-column"),
        (
            {"image": [b"", b""], "label": [1, 2]},
            {"label_column": "lable"},
            r"data.label-column = 'lable' is no column .*mean label\?",
        ),
        (
            {"image": [b"", b""], "label": [1.5, 2]},
            {},
            "column 'label' of .* holds 1.5 in row 0; .* must be text or whole numbers",
        ),
        ({"image": [b"", b""], "label": ["a", None]}, {}, r"label missing in 1 row, first row 1 \(null in column 'label'\)"),
        ({"image": [[1, 2], [3, 4]], "label": [1, 2]}, {}, "column 'image' of .* not images as files"),
        (
            {"image": [png(1), b"nothing"], "label": [1, 2]},
            {},
            r"a picture of column 'image' cannot be read: row 1 \(of no image format",
        ),
        ({"image": [png(1), None], "label": [1, 2]}, {}, r"a picture of column 'image' cannot be read: row 1 \(empty\)"),
        (
            {"image": [png(1)] * 2, "label": [1, 2]},
            {"partition": "natural", "partition_by": "image"},
            "column 'image' of .* holds",
        ),
    ],
)
def test_a_set_that_cannot_be_used_is_refused_by_name(
    make_set: MakeSet, columns: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    data = make_set(columns, **changes)
    with pytest.raises(SettingError, match=message) as refused:
        load_shard(data, 0, 0, 1)
    assert "\n" not in str(refused.value)


def test_rows_without_a_class_are_refused(make_set: MakeSet) -> None:
    names = datasets.ClassLabel(names=["a", "b"])
    data = make_set({"image": pictures([1, 2, 3]), "label": [0, -1, 1]}, {"image": datasets.Image(), "label": names})
    with pytest.raises(SettingError, match=r"label missing in 1 row, first row 1 \(-1 in column 'label'\)"):
        load_shard(data, 0, 0, 1)


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./nowhere", "../nowhere", "a/b/c"])
def test_a_folder_that_is_not_there_is_refused_at_once(name: str) -> None:
    with pytest.raises(SettingError, match="there is no such folder; give a folder of parquet files or a Hub name"):
        load_shard(Data(name=name), 0, 0, 4)


def test_a_name_that_cannot_be_had_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(SettingError, match=r"data.name = 'digit' is neither .*did you mean digits\?.*local folder") as refused:
        load_shard(Data(name="digit"), 0, 0, 4)
    assert "\n" not in str(refused.value)


def test_a_folder_without_a_train_split_is_refused(make_set: MakeSet) -> None:
    data = make_set({"image": pictures([1, 2]), "label": [0, 1]}, split="test")
    with pytest.raises(SettingError, match=r"set' cannot be read: .*train.*; give a folder of parquet files with a train split"):
        load_shard(data, 0, 0, 1)


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("L", 77, (77, 77, 77)),
        ("RGB", (1, 2, 3), (1, 2, 3)),
        ("RGBA", (9, 8, 7, 255), (9, 8, 7)),
        ("1", 1, (255, 255, 255)),
        ("I;16", 0x8040, (128, 128, 128)),
    ],
)
def test_pictures_of_any_mode_become_rgb(mode: str, value: Any, expected: tuple[int, int, int]) -> None:
    pixel = pixels(Image.new(mode, (20, 14), value), 16)
    assert pixel.shape == (3, 16, 16) and pixel.dtype == torch.uint8
    assert pixel.flatten(1).T.unique(dim=0).tolist() == [list(expected)]


def test_shrinking_is_antialiased() -> None:
    stripes = Image.fromarray(np.tile(np.array([0, 255], dtype=np.uint8), (64, 32)))
    inner = pixels(stripes, 8)[:, 2:-2, 2:-2].float()
    assert (inner - 127.5).abs().max() < 8


def real(name: str, **changes: Any) -> Data:
    """Settings that read one of the real data sets; skips where they are not on this machine."""
    if not (REAL / name).is_dir():
        pytest.skip(f"real data sets are not at {REAL}")
    datasets.disable_progress_bars()
    return replace(Data(name=str(REAL / name), partition="iid", image_size=16), **changes)


@pytest.mark.parametrize("kind", ["iid", "dirichlet", "pathological"])
def test_mnist_in_every_partition_it_allows(kind: str) -> None:
    data = real("mnist", partition=kind)
    table = np.array(partition_table(data, 0, 20))
    assert table.shape == (20, 10) and abs(table.sum() - 45000) <= 20
    shard = load_shard(replace(data, max_examples=20), 0, 7, 20)
    assert sum(shard.counts()) == 20 and shard.classes == tuple("0123456789")
    assert all(some <= count for some, count in zip(shard.counts(), table[7], strict=True))
    if kind == "pathological":
        assert ((table > 0).sum(1) == 2).all()


def test_mnist_is_decoded_right_and_only_where_needed() -> None:
    data = real("mnist", image_size=28)
    hub_table.cache_clear()
    shard = load_shard(data, 0, 5, 1000)
    rows = read(data.name)
    gallery = open_table(data).images.__self__  # type: ignore[attr-defined]
    assert isinstance(gallery, Gallery) and gallery.known.sum() == 60
    known = np.flatnonzero(gallery.known)[:5]
    for row in known:
        expected = np.asarray(rows[int(row)]["image"])
        assert np.array_equal(gallery.images(np.array([row]))[0], np.stack([expected] * 3))
    assert len(shard.train_labels) == 45


def test_images_of_a_large_set_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    data = real("mnist", image_size=8)
    hub_table.cache_clear()
    kept = load_shard(data, 0, 5, 1000)
    hub_table.cache_clear()
    monkeypatch.setattr(gallery_module, "KEPT_BYTES", 1000)
    again = load_shard(data, 0, 5, 1000)
    assert open_table(data).images.__self__.kept is None  # type: ignore[attr-defined]
    assert torch.equal(kept.train_images, again.train_images)
    hub_table.cache_clear()


def test_mnist_has_no_ids_and_no_domains() -> None:
    for kind, message in (("natural", "needs a column of ids"), ("domain", "needs a column `domain`")):
        with pytest.raises(SettingError, match=message):
            load_shard(real("mnist", partition=kind), 0, 0, 4)


def test_femnist_by_writer() -> None:
    data = real("femnist", partition="natural")
    assert default_clients(data) == 400
    whole = np.array(partition_table(data, 0, 400))
    assert whole.shape == (400, 62) and (whole.sum(1) >= 1).all()
    shard = load_shard(data, 0, 3, 50)
    assert shard.counts() == partition_table(data, 0, 50)[3] and shard.classes[10] == "A"
    writers = open_table(data).column("writer_id")
    assert len(writers.names) == 400
    with pytest.raises(SettingError, match="401 clients are more than the 400 ids"):
        load_shard(data, 0, 0, 401)


def test_pacs_by_domain() -> None:
    data = real("pacs", partition="domain", max_examples=70)
    assert default_clients(data) == 4
    column = open_table(data).column("domain")
    sizes = dict(zip(column.names, np.bincount(column.codes).tolist(), strict=True))
    assert sizes == {"art_painting": 2048, "cartoon": 2344, "photo": 1670, "sketch": 3929}
    shard = load_shard(data, 0, 2, 40)
    assert len(shard.train_labels) == 70 and len(shard.test_labels) == 42
    assert shard.train_images.float().std() > 20
    assert shard.counts() == partition_table(data, 0, 40)[2]


def test_dreambooth_needs_its_label_named() -> None:
    with pytest.raises(SettingError, match=r"it has image, subject; set data.label-column"):
        load_shard(real("dreambooth"), 0, 0, 2)
    shard = load_shard(real("dreambooth", label_column="subject"), 0, 0, 4)
    assert len(shard.classes) == 30


def test_the_same_folder_elsewhere_gives_the_same_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = real("dreambooth", label_column="subject")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    shutil.copytree(REAL / "dreambooth", tmp_path / "copy")
    here, there = (load_shard(replace(data, name=name), 5, 1, 3) for name in (data.name, str(tmp_path / "copy")))
    assert torch.equal(here.train_images, there.train_images) and torch.equal(here.test_labels, there.test_labels)

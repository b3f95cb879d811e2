"""Local folders: pictures in folders named after their classes, or named by a CSV file, and what else `datasets` can read.

Class folders are listed here: a picture's class is the folder it lies in, and folders called `train`, `test`, .. are splits only
where class folders lie in them or nothing else beside them, so that a class may be called `train` or `test tube`. Rows come in
the order of their paths, as that library gives them. All else is left to it, by way of links where a name would be a pattern.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from fedwarm.data.broken import local
from fedwarm.data.named import named_pictures
from fedwarm.settings.fields import SettingError

if TYPE_CHECKING:
    from datasets import Dataset

TRAIN = "train"
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
TABLES = (".parquet", ".arrow", ".csv", ".tsv", ".json", ".jsonl", ".zip", ".tar", ".gz", ".tgz")
DESCRIBED = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
NAMED = {kind: split for split, kinds in SPLITS.items() for kind in kinds}
UNREADABLE = re.compile("[\udc80-\udcff]")
PATTERN = re.compile("[*?\\[\\]\\x00-\\x1f\\x7f\udc80-\udcff]|::")


def train_of(path: str, name: str) -> Dataset:
    """What clients train on of a Hub data set or of a local folder, images not decoded.

    Args:
        path: a folder, or a name on the Hub.
        name: what the user called it.

    Raises:
        SettingError: a folder of pictures whose classes cannot be told.
        Exception: whatever the library says of a data set that cannot be read.
    """
    from datasets import load_dataset

    place, folders = _place(path, name)
    if folders and TRAIN not in folders:
        raise ValueError(f"it has no train split; its folders are {', '.join(folders)}")
    return folders[TRAIN] if folders else load_dataset(place, split=TRAIN)


def splits_of(path: str, name: str) -> Mapping[str, Dataset]:
    """All splits of a Hub data set or of a local folder, images not decoded; raises what `train_of` does."""
    from datasets import load_dataset

    place, folders = _place(path, name)
    return folders or load_dataset(place)


def _place(path: str, name: str) -> tuple[str, dict[str, Dataset]]:
    """What the library is to read, and the splits of class folders, where there are any."""
    if not os.path.isdir(path):
        return path, {}
    files = sorted(listed(path))
    if named := named_pictures(path, files, NAMED, name):
        return path, named
    pictures = _pictures(path, files)
    return (path, class_folders(path, pictures, name)) if pictures else (_plain(path, files), {})


def listed(folder: str) -> Iterator[str]:
    """The files below a folder, relative to it; hidden ones and what begins with two underscores are no part of a data set."""
    seen = {os.path.realpath(folder)}
    for place, folders, files in os.walk(folder, followlinks=True, onerror=_unreadable):
        folders[:] = [f for f in folders if not f.startswith((".", "__")) and _new(os.path.join(place, f), seen)]
        yield from (os.path.relpath(os.path.join(place, f), folder) for f in files if not f.startswith((".", "__")))


def _unreadable(error: OSError) -> None:
    """A folder that is there and cannot be listed: what lies in it would be missing without a word."""
    which = local(f"{error.filename} cannot be read ({error.strerror})", f"a folder cannot be read ({error.strerror})")
    raise SettingError(f"{which}; let the user who runs this read it, or move it elsewhere") from error


def _new(folder: str, seen: set[str]) -> bool:
    real = os.path.realpath(folder)
    if real in seen:
        return False
    seen.add(real)
    return True


def _pictures(path: str, files: Sequence[str]) -> list[str]:
    """The pictures of a folder that holds them as files and says nothing else about them; none where it is another kind."""
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

    ends = [os.path.splitext(file)[1].lower() for file in files]
    pictures = [file for file, end in zip(files, ends, strict=True) if end in ImageFolder.EXTENSIONS]
    if any(os.path.basename(file) in DESCRIBED for file in files) or sum(end in TABLES for end in ends) >= max(len(pictures), 1):
        return []
    card = Path(path) / "README.md"
    described = card.is_file() and re.search(r"^\s*-?\s*(configs|data_files|data_dir):", card.read_text(errors="replace"), re.M)
    return [] if described else pictures


def class_folders(path: str, pictures: Sequence[str], name: str) -> dict[str, Dataset]:
    """The pictures of every split with their classes, as data sets with the columns `image` and `label`.

    Raises:
        SettingError: some lie in no class folder, or at unlike depths, or a name is no text.
    """
    from datasets import ClassLabel, Dataset, Features, Image

    base, parts = _splits(pictures)
    for files in parts.values():
        _check_places(files, base, name)
    if odd := next((file for file in (path, *pictures) if UNREADABLE.search(file)), None):
        which = local(f"the name of {os.fsencode(odd)!r}", "a picture's name")
        raise SettingError(f"{name}: {which} is not UTF-8; give it another")
    classes = sorted({_class(file) for files in parts.values() for file in files})
    codes = {label: code for code, label in enumerate(classes)}
    features = Features({"image": Image(), "label": ClassLabel(names=classes)})

    def split(files: Sequence[str]) -> Dataset:
        columns = {"image": [os.path.join(path, file) for file in files], "label": [codes[_class(file)] for file in files]}
        return Dataset.from_dict(columns, features=features)

    return {name: split(files) for name, files in parts.items()}


def _class(file: str) -> str:
    return os.path.basename(os.path.dirname(file))


def _splits(pictures: Sequence[str]) -> tuple[int, dict[str, list[str]]]:
    """How many folders lead to those of the classes, and the pictures by split; all train where the folders are no splits."""
    parts = [Path(file).parts for file in pictures]
    for level in range(min(len(part) for part in parts) - 1):
        found: dict[str, list[str]] = {}
        for file, part in zip(pictures, parts, strict=True):
            found.setdefault(NAMED.get(part[level].lower(), ""), []).append(file)
        deep = any(len(part) > level + 2 and part[level].lower() in NAMED for part in parts)
        if "" not in found or (deep and len(found) > 1):
            return level + 1, {split: found[split] for split in SPLITS if split in found}
        if len({part[level] for part in parts}) > 1:
            break
    return 0, {"train": list(pictures)}


def _check_places(files: Sequence[str], base: int, name: str) -> None:
    """See that every picture lies in a class folder, below the first `base` folders, and all of them at one depth."""
    by_depth = {len(Path(file).parts): file for file in reversed(files)}
    high, low = by_depth[min(by_depth)], by_depth[max(by_depth)]
    if max(by_depth) < base + 2:
        raise SettingError(
            f"{name}: its pictures lie in no class folders{local(f', e.g. {high!r}')}; put each in a folder named after its "
            "class (cat/1.png), or give parquet files with a column of labels"
        )
    if len(by_depth) > 1:
        raise SettingError(
            f"{name}: its pictures lie at unlike depths{local(f', {high!r} and {low!r}')}; put each in a folder named after "
            "its class, and these folders side by side"
        )


def _plain(path: str, files: Sequence[str]) -> str:
    """The folder, or one with links to its files where a name would be taken for a pattern, a chain or no name at all."""
    real = os.path.realpath(path)
    if not any(PATTERN.search(text) for text in (real, *files)):
        return path
    from datasets import config

    told = "\n".join((real, *files)).encode(errors="surrogateescape")
    root = Path(config.HF_DATASETS_CACHE) / "fedwarm-links"
    place = root / hashlib.sha256(told).hexdigest()[:16]
    if not place.is_dir():
        root.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(dir=root))
        for file in files:
            link = new.joinpath(*(quote(os.fsencode(part)) if PATTERN.search(part) else part for part in Path(file).parts))
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.join(real, file))
        with suppress(OSError):  # another process was first
            new.rename(place)
        if new.is_dir():
            shutil.rmtree(new)
    return str(place)

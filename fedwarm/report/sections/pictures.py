"""Generated and synthetic pictures beside real ones, by client and class, for the report's page.

What a run drew for the server lies in its folder; what clients drew for themselves lies on their own disks, and is shown only
where that is this machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from fedwarm.catalogue import parse
from fedwarm.data.settings import OWN, Data
from fedwarm.record.reading import Json, Run
from fedwarm.report.mosaic import mosaic
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError

MOST_PICTURE_ROWS, MOST_PICTURE_COLUMNS = 12, 20
PICTURES = "pictures/generated.safetensors"
PICTURES_PER_CELL = 4
ELSEWHERE = "The synthetic images are on the clients' disks, not on this machine, so no samples are shown."
ALONE = "The real images are where the nodes keep their own, not on this machine, so generated pictures stand alone."
Images = NDArray[np.uint8]
ByClass = Mapping[int, Images]


@dataclass(frozen=True)
class Sample:
    """Pictures of one client by class, each uint8 (n, 3, S, S); `real` is empty where there are none to show."""

    client: int
    made: ByClass
    real: ByClass


def by_class(images: object, labels: object, classes: Sequence[int] | None = None) -> dict[int, Images]:
    """The first pictures of each class.

    Args:
        images: uint8 (n, 3, S, S), a tensor or an array.
        labels: (n,).
        classes: those wanted; None: all that are there.
    """
    pixels, codes = np.asarray(images), np.asarray(labels)
    wanted = np.unique(codes).tolist() if classes is None else classes
    found = {int(c): pixels[np.flatnonzero(codes == c)[:PICTURES_PER_CELL]] for c in wanted}
    return {c: some for c, some in found.items() if len(some)}


def grid(shown: Sequence[Sample], names: Sequence[str], kind: str, note: str = "", file: str = "") -> Json:
    """What the template shows: the first clients and classes, pictures as `data:` addresses.

    Args:
        shown: in the order of the rows.
        names: class names.
        kind: what made pictures are called: generated, synthetic.
        note: what the reader should know; without real pictures there is no row for them.
        file: where the rest lies.
    """
    present = sorted({c for sample in shown for c in sample.made})[:MOST_PICTURE_COLUMNS]
    kinds = ["real", kind] if any(sample.real for sample in shown) else [kind]
    rows = []
    for sample in shown[:MOST_PICTURE_ROWS]:
        cells = {"real": [_cell(sample.real, c) for c in present], kind: [_cell(sample.made, c) for c in present]}
        rows.append({"client": sample.client, "cells": [(name, cells[name]) for name in kinds]})
    titles = [names[c] if c < len(names) else str(c) for c in present]
    facts = {"note": note, "file": file, "kind": kind, "real": len(kinds) > 1}
    return {"classes": titles, "rows": rows, "hidden": len(shown) - len(rows), **facts}


def _cell(pictures: ByClass, c: int) -> str | None:
    return mosaic(pictures[c]) if c in pictures and len(pictures[c]) else None


def pictures(run: Run) -> Json | None:
    """Pictures that were generated on the server, beside the clients' real ones; None where the run drew none."""
    path = run.folder / PICTURES
    if not path.is_file():
        return None
    try:
        drawn = _drawn(path)
    except (OSError, SafetensorError, ValueError) as error:
        return grid([], [], "generated", f"The generated pictures cannot be read: {error}", PICTURES)
    return _beside_real(run, sorted(drawn.items()))


def _beside_real(run: Run, made: Sequence[tuple[int, ByClass]]) -> Json:
    """The grid of a run's generated pictures, by client, with real ones where the data set can be had here."""
    present = sorted({c for _, drawn in made for c in drawn})[:MOST_PICTURE_COLUMNS]
    found, note = [], ALONE if run.settings.get("data.name") == OWN else ""
    for i, (client, drawn) in enumerate(made):
        real: ByClass = {}
        if not note and i < MOST_PICTURE_ROWS:
            try:
                real = _real(run, client, present)
            except (ImportError, SettingError, OSError) as error:
                note = f"The data set could not be loaded here, so generated pictures stand alone: {error}"
        found.append(Sample(client, drawn, real))
    return grid(found, run.classes, "generated", note, PICTURES)


def _drawn(path: Path) -> dict[int, ByClass]:
    """The first generated pictures of each client and class."""
    drawn: dict[int, ByClass] = {}
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
        for key in file.keys():  # noqa: SIM118 (a safetensors file is no mapping)
            images = file.get_tensor(key)
            classes = json.loads(metadata.get(key, "[]"))
            if images.ndim != 5 or len(classes) != len(images):
                raise ValueError(f"{key} has shape {images.shape} for classes {classes}")
            drawn[int(key.rsplit("-", 1)[1])] = {int(c): images[i, :PICTURES_PER_CELL] for i, c in enumerate(classes)}
    return drawn


def _real(run: Run, client: int, classes: Sequence[int]) -> dict[int, Images]:
    """Real training pictures of one client by class."""
    from fedwarm.data import load_shard

    shard = load_shard(parse(run.settings).of(Data), run.seed, client, run.clients)
    return by_class(shard.train_images, shard.train_labels, classes)


# What clients drew for themselves


def synthetic(run: Run) -> Json | None:
    """Pictures that clients drew for themselves, beside their real ones; None where the run had none drawn."""
    if run.augment is None or not any(run.augment.synthetic):
        return None
    if run.settings.get("data.name") == OWN:
        return grid([], [], "synthetic", ELSEWHERE)
    wanted = [gap.client for gap in run.augment.clients if gap.synthetic is None or any(gap.synthetic)]
    pairs = [pair for gap in run.augment.clients for pair in zip(gap.real or [], gap.synthetic or [], strict=False)]
    announced = max((real + made for real, made in pairs if made), default=0)
    try:
        found = samples(parse(run.settings), wanted[:MOST_PICTURE_ROWS], run.clients, roots(run), announced)
    except Exception as error:  # whatever ails the clients' files, the page is about the run
        return grid([], [], "synthetic", f"The synthetic images on this machine cannot be read: {error}")
    if not found:
        return grid([], [], "synthetic", ELSEWHERE)
    return {**grid(found, run.classes, "synthetic"), "hidden": len(wanted) - len(found)}


def samples(config: Config, clients: Sequence[int], partitions: int, places: Sequence[Path], announced: int = 0) -> list[Sample]:
    """The first synthetic and real pictures of each class of the clients whose synthetic ones lie on this machine.

    Args:
        config: the run's settings.
        clients: of these partitions, of `partitions`.
        places: folders that hold clients' states; of each client the first that has its images counts.
        announced: the server's target, of rule `global`.

    Raises:
        SettingError: the data set or the foundation cannot be read.
    """
    from fedwarm.augmentations.gen_fedsd.fill import found
    from fedwarm.data import load_shard

    there, out = [place for place in places if place.is_dir()] or list(places[:1]), []
    for k in clients:
        kept = (found(config, k, partitions, place, announced) for place in there)
        filled = next((some for some in kept if some is not None), None)
        if filled is not None:
            shard = load_shard(config.of(Data), config.run.seed, k, partitions)
            out.append(Sample(k, by_class(filled.images, filled.labels), by_class(shard.train_images, shard.train_labels)))
    return out


def roots(run: Run) -> list[Path]:
    """Where the clients of a run keep what is theirs, if they ran here: as its checkpoint says, beside it, or in the cache."""
    from fedwarm.core.store import cache_home

    index = run.folder / "checkpoint" / "checkpoint.json"
    try:
        stated = str(json.loads(index.read_text(encoding="utf-8"))["settings"].get("client-folder") or "")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        stated = ""
    places = [*([Path(stated)] if stated else []), run.folder / "clients"]
    with suppress(SettingError):  # a user without a home folder has no cache
        places.append(cache_home())
    return list(dict.fromkeys(places))

"""Pictures of clients by class, made ones beside real ones, as rows of the report's page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedwarm.catalogue import parse
from fedwarm.privacy.levels import Level
from fedwarm.record.reading import Json
from fedwarm.record.reading import Run as Read
from fedwarm.relevance import Run
from fedwarm.report.mosaic import mosaic
from fedwarm.rounds.gate import level_of

MOST_PICTURE_ROWS, MOST_PICTURE_COLUMNS = 12, 20
PICTURES_PER_CELL = 4
PRIVATE = "Training images of this run are private, so no page shows any, nor pictures that clients made for themselves."
Images = NDArray[np.uint8]
ByClass = Mapping[int, Images]


@dataclass(frozen=True)
class Sample:
    """Pictures of one client by class, each uint8 (n, 3, S, S); `real` is empty where there are none to show."""

    client: int
    made: ByClass
    real: ByClass


def private(run: Read) -> bool:
    """Whether a run has an account of its training images; a page is passed on, and none of them belongs there.

    Raises:
        SettingError: the run's settings are not of this version.
    """
    return level_of(Run.of(parse(run.settings))) != Level.OPEN


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

"""Pictures that a run drew on the server, beside the clients' real ones, by client and class."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open

from fedwarm.catalogue import parse
from fedwarm.data.settings import OWN, Data
from fedwarm.record.reading import Json, Run
from fedwarm.report.samples import (
    MOST_PICTURE_COLUMNS,
    MOST_PICTURE_ROWS,
    PICTURES_PER_CELL,
    PRIVATE,
    ByClass,
    Images,
    Sample,
    by_class,
    grid,
    private,
)
from fedwarm.report.sections import Section
from fedwarm.settings.fields import SettingError

PICTURES = "pictures/generated.safetensors"
ALONE = "The real images are where the nodes keep their own, not on this machine, so generated pictures stand alone."


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
    found, note = [], _why_alone(run)
    for i, (client, drawn) in enumerate(made):
        real: ByClass = {}
        if not note and i < MOST_PICTURE_ROWS:
            try:
                real = _real(run, client, present)
            except (ImportError, SettingError, OSError) as error:
                note = f"The data set could not be loaded here, so generated pictures stand alone: {error}"
        found.append(Sample(client, drawn, real))
    return grid(found, run.classes, "generated", note, PICTURES)


def _why_alone(run: Run) -> str:
    """Why no real pictures are shown; empty where they are."""
    try:
        return PRIVATE if private(run) else ALONE if run.settings.get("data.name") == OWN else ""
    except SettingError as error:
        return f"The run's settings cannot be read here, so generated pictures stand alone: {error}"


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


class Pictures(Section):
    """Generated pictures beside real ones."""

    title, anchor, order, files = "Pictures", "pictures", 10, (PICTURES,)
    template = "{% from 'pictures.html.j2' import sampled %}{{ sampled(shown) }}"

    def shown(self, run: Run) -> Json | None:
        return pictures(run)


COMPONENT = Pictures()

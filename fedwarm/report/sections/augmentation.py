"""What augmentation filled: class gaps before and after, and pictures that clients drew for themselves.

These lie on the clients' own disks, and are shown only where that is this machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from fedwarm.catalogue import parse
from fedwarm.data.settings import OWN, Data
from fedwarm.record.reading import Json, Run
from fedwarm.report.gaps import shown
from fedwarm.report.samples import MOST_PICTURE_ROWS, PRIVATE, Sample, by_class, grid, private
from fedwarm.report.sections import Measure, Section
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError

ELSEWHERE = "The synthetic images are on the clients' disks, not on this machine, so no samples are shown."


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
        if private(run):
            return grid([], [], "synthetic", PRIVATE)
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


TIME = Measure("augmenting, all clients", "time", lambda run: run.augment.seconds if run.augment else None)


class Augmentation(Section):
    """Class gaps of the clients and what filled them."""

    title, anchor, order = "Augmentation", "augment", 20
    measures: ClassVar[Mapping[str, Measure]] = {"augment_seconds": TIME}
    template = (
        "{% from 'augmentation.html.j2' import gap_section %}"
        "<p class=\"soft\">What the clients added to their training images by {{ run.augment.method or 'augmentation' }}.</p>\n"
        "{{ gap_section(shown, id) }}"
    )

    def shown(self, run: Run) -> Json | None:
        return shown(run.augment, run.classes, synthetic(run)) if run.augment else None


COMPONENT = Augmentation()

"""Labelled real images that no client holds, out of a table: an oracle, or images from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from fedwarm.augmentations.gen_fedsd.amounts import GenFedSD
from fedwarm.augmentations.gen_fedsd.drawn import Drawn, plain
from fedwarm.augmentations.gen_fedsd.overlap import refuse_held, refuse_own
from fedwarm.augmentations.gen_fedsd.providers import Provider
from fedwarm.augmentations.gen_fedsd.real import PUBLIC, matched, unheld
from fedwarm.augmentations.gen_fedsd.wanted import check_stock
from fedwarm.data import Shard
from fedwarm.data.provenance import PUBLIC as PART
from fedwarm.data.provenance import WHOLE, Source, source_of
from fedwarm.data.settings import OWN, Data
from fedwarm.parts import Known
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError
from fedwarm.settings.kinds import SETS

READING = ("image-column", "label-column", "background", "bits", "missing-labels", "skip-broken")


def uses(run: Any) -> list[str]:
    """The settings that it takes; those of reading a data set only where one is read."""
    reads = run["gen-fedsd.file"] != PUBLIC and not SETS.takes(run["gen-fedsd.file"])
    return ["gen-fedsd.file", "gen-fedsd.allow-repeat", *(f"data.{name}" for name in READING if reads)]


class Chosen(Provider):
    """Real images of `gen-fedsd.file`: a table, or `public`, the public part of the clients' own data set.

    The table's classes are matched by name. It is refused where it is the clients' own data set, or lacks a class.
    """

    kept = "images of gen-fedsd.file are read where they lie, none are kept"
    uses = staticmethod(uses)

    def __init__(self, config: Config, classes: Sequence[str], root: Path, shard: Shard | None = None) -> None:
        super().__init__(config, classes, root, shard)
        self.size, name = config.of(Data).image_size, config.of(GenFedSD).file
        self.table, rows = unheld(name, config.of(Data))
        labels = self.table.label.codes[rows]
        self.rows = [rows[labels == code] for code in matched(classes, self.table.label.names, name)]

    @classmethod
    def check_settings(cls, settings: GenFedSD) -> None:
        if not settings.file:
            raise SettingError(
                "gen-fedsd.provider = 'file' needs gen-fedsd.file: a folder of parquet files or of pictures by class, or a Hub "
                "name"
            )

    @classmethod
    def check(cls, config: Config, known: Known) -> None:
        data = config.of(Data)
        if data.own and config.of(GenFedSD).file == PUBLIC:
            raise SettingError(
                f"gen-fedsd.file = {PUBLIC!r} with data.name = {OWN!r}: no part of what nodes hold is public; take another file"
            )
        made = cls(config, known.classes, Path()) if known.classes else None
        if not data.own:
            refuse_held(config, known.clients)
            if made is not None:
                check_stock(config, known.clients, known.classes, [len(rows) for rows in made.rows])

    @classmethod
    def sources(cls, config: Config) -> Iterator[Source]:
        data, file = config.of(Data), config.of(GenFedSD).file
        yield source_of(PART, data) if file == PUBLIC else source_of(WHOLE, replace(data, name=file))

    def stock(self, label: int) -> int | None:
        return len(self.rows[label])

    def take(self, client: int, label: int, indices: Sequence[int]) -> tuple[Drawn, int]:
        rows = self.rows[label][np.asarray(indices, dtype=np.int64)]
        return plain(self.table.images(rows) if len(rows) else Drawn.none(self.size).images, indices), 0

    def refuse_own(self, images: Tensor, shard: Shard, client: int) -> None:
        refuse_own(self.config, images, shard, client)


COMPONENT = Chosen

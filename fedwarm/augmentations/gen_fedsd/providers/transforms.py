"""Random transforms of the client's own images of a class; a class that it lacks stays empty."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedwarm.augmentations.gen_fedsd.amounts import GenFedSD
from fedwarm.augmentations.gen_fedsd.drawn import DRAWS, Drawn, plain
from fedwarm.augmentations.gen_fedsd.providers import Provider
from fedwarm.augmentations.gen_fedsd.transforms import kinds, transformed
from fedwarm.core.seeds import numpy_generator
from fedwarm.data import Shard
from fedwarm.parts import Known
from fedwarm.settings.config import Config


class Transformed(Provider):
    """Random crops, flips and colours of the client's own images of a class."""

    kept = "transforms are made by a run from a client's own images, none are kept"
    uses = ("gen-fedsd.transforms",)

    def __init__(self, config: Config, classes: Sequence[str], root: Path, shard: Shard | None = None) -> None:
        super().__init__(config, classes, root, shard)
        assert shard is not None
        self.images, self.labels = shard.train_images, shard.train_labels
        self.kinds = kinds(config.of(GenFedSD).transforms)

    @classmethod
    def of(cls, config: Config, classes: Sequence[str], root: Path, shard: Shard | None = None) -> Provider | None:
        return None if shard is None else cls(config, classes, root, shard)

    @classmethod
    def check(cls, config: Config, known: Known) -> None:
        kinds(config.of(GenFedSD).transforms)

    @classmethod
    def offered(cls, missing: Sequence[int], counts: Sequence[int]) -> list[int]:
        return [lacking if held else 0 for lacking, held in zip(missing, counts, strict=True)]

    def stock(self, label: int) -> int | None:
        return None

    def take(self, client: int, label: int, indices: Sequence[int]) -> tuple[Drawn, int]:
        draws = numpy_generator(self.config.run.seed, DRAWS, "transforms", client, label)
        return plain(transformed(self.images[self.labels == label], indices, self.kinds, draws), indices), 0


COMPONENT = Transformed

"""Real images of the public part of the clients' own data set: what generated ones can at best be as good as."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fedwarm.augmentations.gen_fedsd.amounts import GenFedSD
from fedwarm.augmentations.gen_fedsd.providers.file import Chosen
from fedwarm.augmentations.gen_fedsd.real import PUBLIC
from fedwarm.data import Shard
from fedwarm.data.provenance import Source
from fedwarm.parts import Known
from fedwarm.settings.config import Config


def uses(run: Any) -> list[str]:
    """The settings that it takes."""
    return ["gen-fedsd.allow-repeat"]


class Public(Chosen):
    """Real images of the public part (data.public-share or data.public-where), which no client holds."""

    kept = "images of the public part are read where they lie, none are kept"
    uses = staticmethod(uses)

    def __init__(self, config: Config, classes: Sequence[str], root: Path, shard: Shard | None = None) -> None:
        super().__init__(_public(config), classes, root, shard)

    @classmethod
    def check_settings(cls, settings: GenFedSD) -> None:
        """Nothing has to be named."""

    @classmethod
    def check(cls, config: Config, known: Known) -> None:
        super().check(_public(config), known)

    @classmethod
    def sources(cls, config: Config) -> Iterator[Source]:
        yield from super().sources(_public(config))


def _public(config: Config) -> Config:
    return config.changed({"gen-fedsd.file": PUBLIC})


COMPONENT = Public

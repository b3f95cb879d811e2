"""No synthetic images at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedwarm.augmentations.gen_fedsd.providers import Provider
from fedwarm.data import Shard
from fedwarm.settings.config import Config


class Nothing(Provider):
    """No images: clients train on their own alone."""

    fills = False
    kept = "gen-fedsd.provider = 'none' draws nothing"

    @classmethod
    def of(cls, config: Config, classes: Sequence[str], root: Path, shard: Shard | None = None) -> None:
        return None

    @classmethod
    def offered(cls, missing: Sequence[int], counts: Sequence[int]) -> list[int]:
        return [0] * len(counts)


COMPONENT = Nothing

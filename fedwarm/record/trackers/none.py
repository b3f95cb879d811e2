"""Nobody else is told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fedwarm.settings.fields import Value


class Silent:
    """Tells nobody."""

    def __init__(self, folder: Path | None, settings: Mapping[str, Value], resumed_from: int | None) -> None:
        pass

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


COMPONENT = Silent

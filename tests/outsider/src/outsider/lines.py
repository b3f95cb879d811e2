"""A tracker: one line of text a round, in the run folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fedwarm.settings.fields import Value


class Lines:
    """Appends a round's measures to `lines.txt`."""

    def __init__(self, folder: Path, settings: Mapping[str, Value], resumed_from: int | None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "lines.txt"

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Measures by name after round `step`."""
        with self.path.open("a") as file:
            file.write(f"{step} " + " ".join(f"{name}={value:g}" for name, value in sorted(values.items())) + "\n")

    def close(self) -> None:
        """Nothing more will come."""

"""TensorBoard: event files in the run folder."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from fedwarm.core.text import in_markdown
from fedwarm.record.trackers import package
from fedwarm.settings.fields import Value


class TensorBoard:
    """Event files in `<folder>/tensorboard`; what a broken run told after the round it is resumed from is purged."""

    needs = ("tensorboard",)

    def __init__(self, folder: Path, settings: Mapping[str, Value], resumed_from: int | None) -> None:
        writer = package("tensorboard", "torch.utils.tensorboard").SummaryWriter
        purge = None if resumed_from is None else resumed_from + 1
        _after_others(folder / "tensorboard")
        self._writer = writer(str(folder / "tensorboard"), purge_step=purge)
        if resumed_from is None or resumed_from < 0:
            rows = "\n".join(f"| {in_markdown(key)} | {in_markdown(str(value))} |" for key, value in settings.items())
            self._writer.add_text("settings", f"| setting | value |\n|---|---|\n{rows}", 0)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def _after_others(folder: Path) -> None:
    """Wait for the next second where files of this one stand.

    Files are read by name, which begins with the second of their making; what purges steps must come after what holds them.
    """
    while list(folder.glob(f"events.out.tfevents.{int(time.time()):010d}.*")):
        time.sleep(0.02)


COMPONENT = TensorBoard

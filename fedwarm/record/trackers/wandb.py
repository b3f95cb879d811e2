"""Weights & Biases."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from fedwarm.record.trackers import PROJECT, Told, package
from fedwarm.settings.fields import Value


class WandB:
    """A run of the project `fedwarm`, below `<folder>/wandb` and, where the user's environment says so, on the service."""

    needs = ("wandb",)
    install = "'fedwarm[wandb]'"

    def __init__(self, folder: Path, settings: Mapping[str, Value], resumed_from: int | None) -> None:
        wandb = package("wandb", "wandb")
        self._told = Told(folder, resumed_from)
        decided = os.environ.get("WANDB_MODE") or os.environ.get("WANDB_API_KEY")
        folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=PROJECT,
            name=folder.name,
            dir=str(folder),
            id=self._told.run or None,
            resume="allow" if self._told.run else None,
            mode=None if decided else "offline",
            config=dict(settings),
            settings=wandb.Settings(console="off", silent=True),
        )
        self._told.save(str(self._run.id), self._told.step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if step > self._told.step:
            self._run.log(dict(values), step=step)
            self._told.save(self._told.run, step)

    def close(self) -> None:
        self._run.finish()


COMPONENT = WandB

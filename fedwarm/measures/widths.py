"""The final model at other bit-widths: quantized after training, measured on the clients' own test images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fedwarm.core.arrays import to_tensors
from fedwarm.core.payload import Payload
from fedwarm.core.stages import Stage
from fedwarm.data.rows import evenly
from fedwarm.measures._final import FinalServer, refuse_central
from fedwarm.objectives import Objective, objective_of
from fedwarm.parts import ClientPart, Known, Noted, Part, Trainer
from fedwarm.privacy.levels import Level, Reasons
from fedwarm.quantize.fitting import check_layers
from fedwarm.quantize.settings import QuantizationRobust, widths_of
from fedwarm.settings.config import Config
from fedwarm.settings.fields import Group, setting
from fedwarm.tasks import task_of

NAME = "widths"
WIDTHS = "evaluate.bit-widths"


@dataclass(frozen=True)
class Evaluate(Group, prefix="evaluate", used=lambda r: r.shares):
    """Settings of what is measured after training."""

    bit_widths: str = setting("", "bit-widths at which the quantized final model is measured, e.g. `8,6,4,3,2`; empty: none")
    activations: bool = setting(
        True, "true: also measure with quantized activations (`w4a4` beside `w4`)", when=lambda r: bool(r["evaluate.bit-widths"])
    )
    calibration_images: int = setting(
        512,
        "training images of each client from which the ranges of activations are set",
        low=1,
        when=lambda r: bool(r["evaluate.bit-widths"]) and r["evaluate.activations"],
    )

    @property
    def widths(self) -> tuple[int, ...]:
        """`bit_widths` as numbers.

        Raises:
            SettingError: it is no list of widths.
        """
        return widths_of(self.bit_widths, WIDTHS) if self.bit_widths else ()

    @property
    def names(self) -> list[str]:
        """What is measured, by name: `w4` for weights alone, `w4a4` for weights and activations."""
        return [f"w{b}" for b in self.widths] + ([f"w{b}a{b}" for b in self.widths] if self.activations else [])


class WidthsServer(FinalServer):
    """Has the final model measured, and notes its accuracy by width."""

    name = NAME

    def finish(self, stage: Stage, replies: Mapping[int, Payload], counts: Sequence[Sequence[int] | None], record: Noted) -> None:
        record.widths(self.accuracies(replies))
        self.note_silence(stage, replies, record)


class WidthsClient(ClientPart):
    """Counts right answers of the received model at every width.

    The activations' ranges are those on some of this client's own training images.
    """

    actions = (NAME,)

    def tells(self, level: Level) -> Reasons:
        settings = self.config.of(Evaluate)
        reason = "rounds the released model, and counts right answers on test images, which are outside the account"
        return {f"correct-{name}": reason for name in settings.names if not settings.activations}

    def __init__(self, config: Config) -> None:
        self.config = config

    def answer(self, action: str, payload: Payload, client: Trainer) -> Payload:
        from fedwarm.quantize.sweep import right_answers

        settings, shard, objective = self.config.of(Evaluate), client.real, objective_of(self.config)
        rows = torch.from_numpy(evenly(len(shard.train_images), settings.calibration_images))
        known = shard.train_images[rows] if settings.activations else None
        learned = objective.learned(self.config, to_tensors(payload.arrays))
        tests, scheme = (shard.test_images, shard.test_labels), objective.scheme(self.config)
        task = task_of(self.config.run)
        found = right_answers(client.model(payload, plain=True), settings.widths, *tests, known, scheme, learned, task)
        counts = {f"correct-{name}": count for name, count in found.items()}
        return Payload(metrics={"num-test": len(shard.test_labels), **counts})


class Widths(Part):
    """Accuracies of the final model quantized to several bit-widths, without any tuning."""

    settings = (Evaluate, QuantizationRobust)
    layers = "Linear and Conv; those of other kinds are not quantized"

    @staticmethod
    def classed(run: Any) -> bool:
        """Right answers are counted where a width is measured."""
        return bool(run.shares and run[WIDTHS])

    answered = classed

    @staticmethod
    def uses(run: Any) -> tuple[str, ...]:
        """Settings of the scheme that the run's objective quantizes by, where a width is measured."""
        objective = next((found for found in run.chosen if isinstance(found, Objective)), None)
        return objective.scheme_uses if objective is not None and run.shares and run[WIDTHS] else ()

    def uncovered(self, run: Any, level: Level) -> str:
        if not (run.shares and run[WIDTHS] and run["evaluate.activations"]):
            return ""
        return (
            f"{WIDTHS} = {run[WIDTHS]!r} with evaluate.activations = true sets the activations' ranges by clients' training "
            "images, which the account of this private run does not cover; set evaluate.activations = false (weights alone)"
        )

    def validate(self, config: Config) -> None:
        """Refuse settings that cannot be, before data are looked for.

        Raises:
            SettingError: no list of widths, or test images that are not at the clients.
        """
        self.server(config)

    def check(self, config: Config, known: Known) -> None:
        if config.of(Evaluate).widths:
            check_layers(config, known, objective_of(config).scheme(config), WIDTHS)

    def server(self, config: Config) -> WidthsServer:
        settings = config.of(Evaluate)
        if settings.widths:
            why = "models at other widths are measured at the clients, by ranges of their training images"
            refuse_central(config, f"{WIDTHS} = {settings.bit_widths!r}: {why}")
        return WidthsServer(settings.names)

    def client(self, config: Config, node: Any) -> WidthsClient:
        return WidthsClient(config)


COMPONENT = Widths()

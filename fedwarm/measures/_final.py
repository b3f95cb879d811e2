"""What measures of the final model have in common: the model, and clients that count right answers on their own test images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import ClassVar

from torch import nn

from fedwarm.core.arrays import Arrays, to_tensors
from fedwarm.core.inputs import Form
from fedwarm.core.payload import Payload
from fedwarm.core.stages import Stage
from fedwarm.data.settings import Data
from fedwarm.data.testing import CENTRAL
from fedwarm.models import Model, build_model, device_of
from fedwarm.objectives import is_learned
from fedwarm.parts import Noted, ServerPart
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError


class FinalServer(ServerPart):
    """Has all clients measure the final model; they answer by `num-test` and `correct-<name>`.

    Attributes:
        name: of the measure.
        names: what is measured; nothing: there is no stage.
    """

    name: ClassVar[str]

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(names)

    def after(self, everyone: tuple[int, ...], number: int, arrays: Arrays) -> Iterator[Stage]:
        if arrays and self.names:
            yield Stage(number, self.name, "evaluate", everyone, action=self.name, owner=f"measure {self.name}")

    def instruct(self, stage: Stage, client: int, arrays: Arrays) -> Payload:
        return Payload("weights", arrays, {"round": stage.round})

    def absorb(self, stage: Stage, client: int, payload: Payload, classes: int) -> None:
        tests = payload.count("num-test")
        for name in self.names:
            payload.count(f"correct-{name}", 0, tests)

    def accuracies(self, replies: Mapping[int, Payload]) -> dict[str, float]:
        """By name, over the union of the clients' test images; empty where there are none."""
        told = [reply.metrics for reply in replies.values()]
        tests = sum(metrics["num-test"] for metrics in told)
        return {name: sum(metrics[f"correct-{name}"] for metrics in told) / tests for name in self.names} if tests else {}

    def note_silence(self, stage: Stage, replies: Mapping[int, Payload], record: Noted) -> None:
        """Say so where no client answered."""
        if not replies:
            record.note(f"{self.name} were not measured: none of {len(stage.clients)} clients answered; the log says why")


def global_model(config: Config, width: int, inputs: Form, arrays: Arrays) -> nn.Module:
    """The model of a run with these arrays, in all of its architecture's tensors, on the run's device.

    Args:
        width: outputs of its head.
    """
    state = to_tensors({name: array for name, array in arrays.items() if not is_learned(name)})
    model = build_model(replace(config.of(Model), train=Model.train), width, inputs, config.run.seed, state)
    return model.to(device_of(config.run.device))


def refuse_central(config: Config, measured: str) -> None:
    """See that test images are at the clients; `measured` says what asks for them, and why.

    Raises:
        SettingError: they are at the server.
    """
    if config.of(Data).test == CENTRAL:
        raise SettingError(f"data.test = 'central' with {measured}; take data.test = 'split' or 'held-out'")

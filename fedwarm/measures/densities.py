"""The final model pruned by magnitude to several densities, without tuning after it, measured on every client's test images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedwarm.core.arrays import from_module, to_tensors
from fedwarm.core.payload import Payload
from fedwarm.core.stages import Stage
from fedwarm.measures._final import FinalServer, refuse_central
from fedwarm.parts import ClientPart, Noted, Part, Trainer
from fedwarm.privacy.levels import Level, Reasons
from fedwarm.settings.config import Config
from fedwarm.settings.fields import Group, SettingError, setting
from fedwarm.sparse.groups import Groups
from fedwarm.sparse.magnitude import by_unit, by_weight
from fedwarm.tasks import task_of
from fedwarm.training.evaluate import correct

NAME, NOTED = "densities", "pruned"
KEY, DENSITY = "prune.densities", "density-"


@dataclass(frozen=True)
class Prune(Group, prefix="prune", used=lambda r: r.shares):
    """Settings of pruning by magnitude after training."""

    densities: str = setting("", "densities at which the pruned final model is measured, e.g. `0.5,0.2`; empty: none")
    by: str = setting(
        "unit", "what is pruned; unit: whole units, which makes the network smaller; weight: single weights",
        choices=("unit", "weight"),
        when=lambda r: bool(r[KEY]),
    )  # fmt: skip

    @property
    def wanted(self) -> tuple[float, ...]:
        """`densities` as numbers.

        Raises:
            SettingError: it is no list of shares.
        """
        try:
            found = tuple(float(part) for part in self.densities.split(",") if part.strip())
        except ValueError:
            found = (0.0,)
        if not all(0 < share <= 1 for share in found):
            raise SettingError(f"{KEY} = {self.densities!r} must be shares above 0 and at most 1 with commas between them")
        return found

    @property
    def names(self) -> dict[str, float]:
        """The densities by the name of what is measured."""
        return {f"{DENSITY}{share:g}": share for share in self.wanted}


class DensitiesServer(FinalServer):
    """Has the final model pruned and measured, and notes its accuracy by density."""

    name = NAME

    def finish(self, stage: Stage, replies: Mapping[int, Payload], counts: Sequence[Sequence[int] | None], record: Noted) -> None:
        record.found(NOTED, {name.removeprefix(DENSITY): share for name, share in self.accuracies(replies).items()})
        self.note_silence(stage, replies, record)


class DensitiesClient(ClientPart):
    """Counts right answers of the received model at every density."""

    actions = (NAME,)

    def __init__(self, config: Config) -> None:
        self.config = config

    def tells(self, level: Level) -> Reasons:
        reason = "prunes the released model, and counts right answers on test images, which are outside the account"
        return {f"correct-{name}": reason for name in self.config.of(Prune).names}

    def answer(self, action: str, payload: Payload, client: Trainer) -> Payload:
        settings, shard, model = self.config.of(Prune), client.real, client.model(payload, plain=True)
        groups, arrays = Groups.of(model), from_module(model)
        found: dict[str, int | float] = {"num-test": len(shard.test_labels)}
        for name, share in settings.names.items():
            pruned = by_unit(groups, arrays, share) if settings.by == "unit" else by_weight(arrays, share)
            model.load_state_dict(to_tensors(pruned))
            found[f"correct-{name}"] = correct(model, shard.test_images, shard.test_labels, task_of(self.config.run))
        return Payload(metrics=found)


class Densities(Part):
    """Accuracy of the final model pruned to several densities."""

    settings = Prune
    layers = "Linear and Conv2d; those of other kinds are not pruned"

    @staticmethod
    def classed(run: Any) -> bool:
        """Right answers are counted where a density is measured."""
        return bool(run.shares and run[KEY])

    answered = classed

    def validate(self, config: Config) -> None:
        """Refuse settings that cannot be, before data are looked for.

        Raises:
            SettingError: no list of shares, or test images that are not at the clients.
        """
        self.server(config)

    def server(self, config: Config) -> DensitiesServer:
        settings = config.of(Prune)
        if settings.wanted:
            refuse_central(config, f"{KEY} = {settings.densities!r}: pruned models are measured at the clients")
        return DensitiesServer(settings.names)

    def client(self, config: Config, node: Any) -> DensitiesClient:
        return DensitiesClient(config)


COMPONENT = Densities()

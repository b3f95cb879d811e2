"""What the final encoder is worth: a linear probe and nearest neighbours on its features, by client and pooled.

Features are what the head is given; the encoder stays as it is. By client, a probe learns from a client's own training images
alone and is asked for its own test images. Pooled, it learns from all clients' training images together: a measure of research,
for which the server looks at the data set that it dealt itself; there is none where nodes bring their own. A probe that a
federation trains is a run of its own (`model.weights`, `model.train = "head"`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fedwarm.core.arrays import Arrays
from fedwarm.core.payload import Payload
from fedwarm.core.stages import Stage
from fedwarm.data.settings import Data
from fedwarm.data.shards import Shard, load_pooled
from fedwarm.measures._final import FinalServer, global_model, refuse_central
from fedwarm.models import Model, behead
from fedwarm.parts import ClientPart, Noted, Part, Trainer
from fedwarm.privacy.levels import Level
from fedwarm.settings.config import Config
from fedwarm.settings.fields import Group, setting
from fedwarm.tasks import task_of
from fedwarm.training.frozen import features, nearest, probe

NAME = "probes"


@dataclass(frozen=True)
class Probe(Group, prefix="probe", used=lambda r: r.shares):
    """Settings of how the final encoder is measured."""

    linear: bool = setting(False, "true: measure the final encoder by a linear probe, logistic regression on its features")
    iterations: int = setting(50, "L-BFGS iterations of the linear probe", low=1, when=lambda r: bool(r["probe.linear"]))
    neighbours: int = setting(0, "k of the nearest-neighbour classifier that measures the final encoder; 0: off", low=0)

    @property
    def names(self) -> tuple[str, ...]:
        """What is measured."""
        return ("linear",) * self.linear + ("neighbours",) * bool(self.neighbours)

    def right(self, encoder: nn.Module, shard: Shard) -> dict[str, int]:
        """Right answers on a shard's test images, learned from its training images, by what is measured."""
        if not len(shard.test_labels):
            return dict.fromkeys(self.names, 0)
        known, asked = features(encoder, shard.train_images), features(encoder, shard.test_images)
        classes, answers = len(shard.classes), dict[str, Tensor]()
        if self.linear:
            answers["linear"] = probe(known, shard.train_labels, classes, self.iterations)(asked)
        if self.neighbours:
            answers["neighbours"] = nearest(known, shard.train_labels, asked, classes, self.neighbours)
        return {name: int((found == shard.test_labels).sum()) for name, found in answers.items()}


class ProbesServer(FinalServer):
    """Has clients measure the encoder, and measures it on all of their images where it dealt these."""

    name = NAME

    def __init__(self, config: Config) -> None:
        super().__init__(config.of(Probe).names)
        self.config, self.settings = config, config.of(Probe)
        self.arrays: Arrays = {}

    def after(self, everyone: tuple[int, ...], number: int, arrays: Arrays) -> Iterator[Stage]:
        self.arrays = arrays
        yield from super().after(everyone, number, arrays)

    def finish(self, stage: Stage, replies: Mapping[int, Payload], counts: Sequence[Sequence[int] | None], record: Noted) -> None:
        told = [replies[k].metrics if k in replies and replies[k].metrics["num-test"] else None for k in range(len(counts))]
        by_client = {
            name: [None if one is None else one[f"correct-{name}"] / one["num-test"] for one in told] for name in self.names
        }
        record.found(NAME, {"by_client": by_client, **({} if self.config.of(Data).own else {"pooled": self.pooled(len(counts))})})

    def pooled(self, clients: int) -> dict[str, float]:
        """Accuracies on all clients' test images, learned from all of their training images."""
        config, data = self.config, self.config.of(Data)
        shard = load_pooled(data, config.run.seed, clients)
        encoder = global_model(config, task_of(config.run).width(len(shard.classes)), shard.form, self.arrays)
        behead(config.of(Model), encoder)
        return {name: right / len(shard.test_labels) for name, right in self.settings.right(encoder, shard).items()}


class ProbesClient(ClientPart):
    """Measures the received encoder on what the client holds."""

    actions = (NAME,)

    def __init__(self, config: Config) -> None:
        self.config = config

    def answer(self, action: str, payload: Payload, client: Trainer) -> Payload:
        encoder = client.model(payload)
        behead(self.config.of(Model), encoder)
        right = self.config.of(Probe).right(encoder, client.real)
        return Payload(metrics={"num-test": len(client.real.test_labels), **{f"correct-{name}": n for name, n in right.items()}})


class Probes(Part):
    """The final encoder as it is: a linear probe and nearest neighbours on its features, by client and pooled."""

    settings = Probe

    @staticmethod
    def classed(run: Any) -> bool:
        """Probes and neighbours answer with classes."""
        return bool(run.shares and (run["probe.linear"] or run["probe.neighbours"]))

    def uncovered(self, run: Any, level: Level) -> str:
        if not (run.shares and (run["probe.linear"] or run["probe.neighbours"])):
            return ""
        return (
            "probe.linear and probe.neighbours learn from clients' training images, which the account of this private run does "
            "not cover; set probe.linear = false and probe.neighbours = 0"
        )

    def validate(self, config: Config) -> None:
        """Refuse to measure where clients have no test images.

        Raises:
            SettingError: they are at the server.
        """
        if config.of(Probe).names:
            refuse_central(config, "probe.linear or probe.neighbours, which are measured at clients, too")

    def server(self, config: Config) -> ProbesServer:
        return ProbesServer(config)

    def client(self, config: Config, node: Any) -> ProbesClient:
        return ProbesClient(config)


COMPONENT = Probes()

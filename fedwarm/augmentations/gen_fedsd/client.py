"""Gen-FedSD's half at a client: its histogram, the images that its classes lack, and what it then counts for.

Morafah et al., arXiv 2405.07925. Images stay where they are drawn.
"""

from __future__ import annotations

from dataclasses import fields, replace

import torch
from torch import Tensor

from fedwarm.augmentations.gen_fedsd.amounts import GenFedSD, weight
from fedwarm.augmentations.gen_fedsd.checks import global_rule, histogram, shelf_root
from fedwarm.augmentations.gen_fedsd.fill import Report, fill
from fedwarm.augmentations.gen_fedsd.providers import provider_type
from fedwarm.core.payload import Payload
from fedwarm.data import Shard
from fedwarm.data.node import Node
from fedwarm.data.settings import Data
from fedwarm.parts import ClientPart, Trainer
from fedwarm.privacy.levels import PRICED, Level, Reasons
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError

SYNTHETIC, HISTOGRAM = "synthetic", "histogram"


class GenFedSdClient(ClientPart):
    """Fills the gaps of the client's classes, and keeps the images in its store."""

    actions = ("gaps", "augment")

    def __init__(self, config: Config, node: Node) -> None:
        self.config, self.node, self.own = config, node, config.of(GenFedSD)

    def tells(self, level: Level) -> Reasons:
        """The histogram alone, under its noise."""
        noisy = level == Level.FACTS and self.own.histogram_epsilon > 0 and global_rule(self.config)
        return {"counts": f"{PRICED}two-sided geometric noise of gen-fedsd.histogram-epsilon"} if noisy else {}

    def withholds(self, level: Level) -> frozenset[str]:
        """How many images were drawn, and how long that took, tells which classes are missing."""
        return frozenset(field.name for field in fields(Report))

    def answer(self, action: str, payload: Payload, client: Trainer) -> Payload:
        return self.gaps(client.real) if action == "gaps" else self.augment(client.real, payload.count("target"))

    def gaps(self, real: Shard) -> Payload:
        """This client's class histogram; one with noise counts all its images, and is told again as it is when asked again."""
        kept = self.node.store.kept(HISTOGRAM, 0)
        if kept is None:
            holding = self.node.holding(self.config.of(Data), self.config.run.seed)
            counts = holding.counts() if self.own.histogram_epsilon > 0 else real.counts()
            kept = self.node.store.keep(HISTOGRAM, {"counts": torch.tensor(histogram(self.config, counts))}, 0)
        return Payload(facts={"counts": kept["counts"].tolist()})

    def augment(self, real: Shard, target: int) -> Payload:
        """Have the images drawn that this client's classes lack; they stay here, and a few numbers say what it took."""
        filled = fill(self.config, real, self.node.partition, shelf_root(self.config), target)
        self.node.store.save(SYNTHETIC, {"images": filled.images, "labels": filled.labels}, 0)
        report, shown = filled.report, self.config.of(Data).share_class_counts
        numbers = {name: value for name, value in report.facts().items() if isinstance(value, (int, float))}
        if not shown:
            return Payload(metrics={name: numbers[name] for name in ("seconds", "drawn_seconds")})
        return Payload(metrics=numbers, facts={"synthetic": report.synthetic})

    @property
    def alone(self) -> bool:
        """Whether it trains on synthetic images alone."""
        return not self.own.keep_real and provider_type(self.config).fills

    def data(self, real: Shard) -> Shard:
        if not self.alone:
            return real.joined(*self.synthetic())
        images, labels = self.synthetic()
        if not len(labels):
            raise SettingError(
                f"client {self.node.partition} has no synthetic images, and gen-fedsd.keep-real = false leaves it nothing "
                "to train on; take gen-fedsd.rule = 'fixed' with enough images of each class"
            )
        return replace(real, train_images=images, train_labels=labels)

    def synthetic(self) -> tuple[Tensor, Tensor]:
        """Images and labels that were drawn for this client.

        Raises:
            SettingError: they are gone, as when its disk made room for other runs.
        """
        found = self.node.store.load(SYNTHETIC)
        if found is None:
            raise SettingError(
                f"the synthetic images of client {self.node.partition} are gone from {self.node.store.folder}; raise "
                "client-state-mb and restart the run; images that are still cached are reused"
            )
        return found["images"], found["labels"]

    def weight(self, real: Shard, held: Shard) -> int:
        """By `gen-fedsd.weight-by`; the number of synthetic images is not told where the histogram has noise."""
        own = real.counts()
        if self.alone and self.own.weight_by == "augmented" and not self.own.histogram_epsilon:
            return len(held.train_labels)
        if self.alone:
            return sum(own)
        return weight(self.own, own, [n - m for n, m in zip(held.counts(), own, strict=True)])

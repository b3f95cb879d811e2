"""Federated SimCLR's client: two views of its images are contrasted, and a head tells by either view whose they are."""

from __future__ import annotations

from functools import cached_property

import torch

from fedwarm.core.arrays import Arrays, from_module, from_tensors, to_tensors
from fedwarm.core.payload import Payload
from fedwarm.core.told import joined, split
from fedwarm.data import Shard
from fedwarm.methods.fed_simclr import (
    NONE,
    PART,
    PLACE,
    ROWS,
    Contrastive,
    FedSimClr,
    Verification,
    heads_of,
    known_labels,
    measures_rows,
    sent,
)
from fedwarm.models import Model, behead, to_input
from fedwarm.rounds.client import PERSONAL, BaseClient
from fedwarm.rounds.measuring import right_by_features
from fedwarm.tasks.contrast import Contrast, two_views
from fedwarm.tasks.contrast.bound import Sums
from fedwarm.tasks.contrast.views import Views
from fedwarm.training.loop import Hook


class FedSimClrClient(BaseClient):
    """Trains encoder, projector and heads, and sends of the heads' rows what travels; alone, it keeps all to itself."""

    place = -1

    @property
    def settings(self) -> FedSimClr:
        return self.config.of(FedSimClr)

    @cached_property
    def shard(self) -> Shard:
        """What it trains on; labels that training does not know are hidden."""
        held: Shard = super().shard
        labels = known_labels(held.train_labels, self.settings.labelled, self.config.run.seed, self.node.partition)
        return Shard(held.train_images, labels, held.test_images, held.test_labels, held.classes)

    def hooks(self) -> list[Hook]:
        return [Verification(self.settings, self.place)]

    def contrastive(self, arrays: Arrays) -> tuple[str, Contrastive]:
        """The classifier's head's name, and the model with arrays such as travel; those that are missing as they are at first."""
        body, told = split(arrays, PART)
        encoder = self.model(Payload("weights", body))
        layer, head = behead(self.config.of(Model), encoder)
        heads = heads_of(self.config, head, len(self.real.classes), self.node.partitions)
        if ROWS in told:
            heads.rows = torch.nn.Parameter(torch.empty(told[ROWS].shape))
        heads.load_state_dict(to_tensors(told), strict=False)
        return layer, Contrastive(encoder, head, heads.to(self.device), self.real.classes)

    def own(self, before: int) -> Arrays:
        """What it kept to itself before a round; nothing at first."""
        return from_tensors(self.node.store.load(PERSONAL, before=before) or {}) if self.settings.alone else {}

    def round(self, payload: Payload) -> Payload:
        number = payload.count("round", 1)
        self.place = int(payload.metrics.get(PLACE, self.node.partition))
        layer, model = self.contrastive(payload.arrays or self.own(number))
        loss = self.fit(model, "train", number)
        head = {f"{layer}.{name}": array for name, array in from_module(model.head).items()}
        trained = joined({**from_module(model.encoder), **head}, from_module(model.heads), PART)
        told = {"num-examples": self.weight, "train-loss": loss}
        if self.settings.alone:
            self.node.store.save(PERSONAL, to_tensors(trained), number)
            return Payload(metrics=told)
        return Payload("weights", sent({name: trained[name] for name in payload.arrays}, self.settings, self.place), told)

    def reference(self, action: str, payload: Payload) -> Arrays:
        place = int(payload.metrics.get(PLACE, self.node.partition))
        return sent(payload.arrays, self.settings, place)

    def evaluate(self, payload: Payload) -> Payload:
        """Right answers by nearest neighbours among its own images, and what it measures of the bound on its test images."""
        number, shard, alone = payload.count("round"), self.real, self.settings.alone
        _, model = self.contrastive(payload.arrays or self.own(number + 1))
        metrics: dict[str, int | float] = {"num-test": len(shard.test_labels)}
        if len(shard.test_labels):
            right = right_by_features(self.config, model.encoder, shard, (shard.test_images, shard.test_labels))
            metrics |= {f"correct-{'personal' if alone else 'global'}": right, **self.parts(model.eval(), number)}
        return Payload(metrics=metrics)

    @torch.no_grad()
    def parts(self, model: Contrastive, number: int) -> dict[str, int | float]:
        """What it measures of the bound on its test images, in batches as training has them, of views drawn for the round."""
        images, draws, contrast, sums = self.real.test_images, self.draws("views", number), self.config.of(Contrast), Sums()
        chosen = torch.randperm(len(images), generator=draws)[: self.settings.bound_images or None]
        for rows in chosen.split(self.config.run.batch_size):
            inputs = to_input(images[rows].to(self.device))
            vectors = model(two_views(inputs, self.config.of(Views), model.classes, draws))[:, : contrast.width]
            sums.contrasted(contrast.scored(vectors))
            sums.lying(model.features)
            if measures_rows(self.settings):
                none = torch.full((2 * len(rows),), NONE, device=self.device)
                sums.verified(model.heads.verify(model.features, none), self.node.partition)
        return {"bound-images": len(chosen), **sums.means()}

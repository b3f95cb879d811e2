"""What every client does: describe itself, build the model, measure it, and train it by the one loop with the method's hooks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import nn

from fedwarm.arrays import from_module, to_tensors
from fedwarm.config import Config
from fedwarm.data import Shard, load_shard
from fedwarm.evaluate import correct
from fedwarm.models import build_model, device_of
from fedwarm.seeds import generator
from fedwarm.store import Store
from fedwarm.training import Hook, Plan, fit
from fedwarm.wire import Fact, Payload

Action = Literal["describe", "round", "adapt", "distill", "evaluate"]
PERSONAL = "personal"


@dataclass(frozen=True)
class Node:
    """Which client this is, of how many, and where it keeps what is its own."""

    partition: int
    partitions: int
    store: Store


class BaseClient:
    """A trainer: answers one message with one payload. A method overrides `hooks`, `round`, or adds actions.

    Args:
        config: the run's settings.
        node: who this client is.
    """

    def __init__(self, config: Config, node: Node) -> None:
        self.config, self.node = config, node

    @cached_property
    def shard(self) -> Shard:
        """This client's own data."""
        return load_shard(self.config.data, self.config.run.seed, self.node.partition, self.node.partitions)

    @cached_property
    def device(self) -> torch.device:
        return device_of(self.config.run.device)

    def answer(self, action: Action, payload: Payload) -> Payload:
        """Do what the message asks for.

        Raises:
            NotImplementedError: this method has no such action.
        """
        do: Callable[[Payload], Payload] | None = getattr(self, action, None)
        if do is None:
            raise NotImplementedError(f"{type(self).__name__} has no action {action!r}")
        return do(payload)

    def model(self, payload: Payload | None = None) -> nn.Module:
        """The shared initialisation, or the model with the payload's weights."""
        run, shard = self.config.run, self.shard
        state = to_tensors(payload.arrays) if payload is not None and payload.arrays else None
        return build_model(self.config.model, len(shard.classes), shard.train_images.shape[-1], run.seed, state).to(self.device)

    def draws(self, purpose: str, number: int = 0) -> torch.Generator:
        """This client's generator for a purpose in a round."""
        return generator(self.config.run.seed, purpose, number, self.node.partition)

    def describe(self, payload: Payload) -> Payload:
        """Partition, sizes and classes; counts per class only where the settings share them."""
        shard, counts = self.shard, self.shard.counts()
        facts: dict[str, Fact] = {
            "classes": list(shard.classes),
            "present": [c for c, n in enumerate(counts) if n],
        }
        if self.config.data.share_class_counts:
            facts["counts"] = counts
        sizes = {
            "partition": self.node.partition,
            "partitions": self.node.partitions,
            "num-examples": len(shard.train_labels),
            "num-test": len(shard.test_labels),
            "image-size": int(shard.train_images.shape[-1]),
        }
        return Payload(metrics=dict(sizes), facts=facts)

    def hooks(self) -> list[Hook]:
        """Terms and transforms of the local objective."""
        return []

    def round(self, payload: Payload) -> Payload:
        """Train the received model on this client's data; answer with its weights."""
        model = self.model(payload)
        done = self.fit(model, "train", int(payload.metrics.get("round", 0)))
        return Payload("weights", from_module(model), {"num-examples": len(self.shard.train_labels), "train-loss": done})

    def fit(self, model: nn.Module, purpose: str, number: int) -> float:
        """Train in place on this client's images by the run's plan and this method's hooks; the mean loss of the last epoch."""
        plan, shard = Plan.of(self.config.run), self.shard
        return fit(model, shard.train_images, shard.train_labels, plan, self.draws(purpose, number), self.hooks()).loss

    def evaluate(self, payload: Payload) -> Payload:
        """Right answers on this client's own test images: of the received model and of the personal one, if there is one."""
        metrics: dict[str, int | float] = {"num-test": len(self.shard.test_labels)}
        if payload.arrays:
            metrics["correct-global"] = self.correct(self.model(payload))
        state = self.node.store.load(PERSONAL, before=payload.count("round") + 1)
        if state is not None:
            personal = self.model()
            personal.load_state_dict(state)
            metrics["correct-personal"] = self.correct(personal)
        return Payload(metrics=metrics)

    def correct(self, model: nn.Module) -> int:
        """Right answers of a model on this client's own test images."""
        return correct(model, self.shard.test_images, self.shard.test_labels)

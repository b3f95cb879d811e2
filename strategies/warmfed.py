"""WarmFed's server: one upload of adapters, a pool of images drawn from them, a global model trained on it, then rounds.

Feng et al., arXiv 2503.03110 (2025). Stages: `adapt` (once), then `distill` (one-shot protocol), or `round` times R and `distill`
(five-round protocol). The pool is drawn here and stays here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fedwarm.arrays import Arrays, WeightedMean, from_module, load_module, to_tensors
from fedwarm.data.pool import Pool, join
from fedwarm.methods.warmfed import CLASSIFIER, quota
from fedwarm.methods.warmfed import WarmFed as Settings
from fedwarm.models import device_of
from fedwarm.progress import tick
from fedwarm.seeds import generator
from fedwarm.training import Plan, fit
from fedwarm.wire import Payload, PayloadError, check_arrays

from .base import BaseStrategy, Stage

if TYPE_CHECKING:
    from fedwarm.diffusion.foundation import Foundation

PICTURES_PER_CLASS = 4


class WarmFed(BaseStrategy):
    """Warm start from personalised diffusion models."""

    method = "warmfed"

    @property
    def settings(self) -> Settings:
        return self.config.of(Settings)

    @property
    def generates(self) -> bool:
        """Whether any image is drawn at all."""
        return self.settings.synthetic_ratio > 0

    def plan(self) -> Iterator[Stage]:
        self.adapters: dict[int, Arrays] = {}
        self.locals: dict[int, Arrays] = {}
        self.pool: Pool | None = None
        self.draw = 0
        if self.generates and self.settings.adapt:
            yield Stage(0, "adapt", "train.adapt", self.everyone)
        self._warm_start()
        if self.settings.protocol == "one-shot":
            yield Stage(0, "distill", "train.distill", self.everyone, 0)
            return
        last = self.config.run.num_server_rounds
        for number in range(1, last + 1):
            yield Stage(number, "round", "train", self.everyone, number - 1)
        yield Stage(last, "distill", "train.distill", self.everyone, last)

    def instruct(self, stage: Stage, client: int) -> Payload:
        if stage.name == "adapt":
            return Payload(facts={"fingerprint": self.foundation.fingerprint})
        return Payload("weights", self.arrays, {"round": stage.round, "model": stage.measures})

    def check(self, stage: Stage, payload: Payload) -> None:
        super().check(stage, payload)
        if stage.name == "round":
            check_arrays(payload.arrays, self.arrays)
        if stage.name == "adapt":
            if payload.text("fingerprint") != self.foundation.fingerprint:
                raise PayloadError("the adapter was tuned on another foundation")
            check_arrays(payload.arrays, self.template)

    def begin(self, stage: Stage) -> None:
        self.mean = WeightedMean()

    def absorb(self, stage: Stage, client: int, payload: Payload) -> None:
        if stage.name == "adapt":
            self.adapters[client] = {n: a for n, a in payload.arrays.items() if not n.startswith(CLASSIFIER)}
            uploaded = {n.removeprefix(CLASSIFIER): a for n, a in payload.arrays.items() if n.startswith(CLASSIFIER)}
            if uploaded:
                self.locals[client] = uploaded
        elif stage.name == "round":
            local = payload.arrays
            if self.settings.finetune_targets == "local_and_aggregate":
                local = self._tuned(local, self._of(client), self.settings.epochs_local, f"local {stage.round} {client}")
            self.mean.add(local, payload.number("num-examples"))

    def finish(self, stage: Stage) -> None:
        if stage.name == "adapt":
            self._save_adapters()
        elif stage.name == "round":
            self.draw += self.settings.regenerate_each_round
            if self.draw:
                self._draw_pool()
            self.arrays = self._tuned(self.mean.result(), self._all(), self.settings.epochs_aggregate, f"aggregate {stage.round}")

    # The foundation and its pool

    @property
    def foundation(self) -> Foundation:
        """The frozen text-to-image model, the same at the server and at every client."""
        from fedwarm.diffusion.foundation import load_foundation

        return load_foundation(self.config.diffusion, self.config.run.device)

    @property
    def template(self) -> Arrays:
        """Names, shapes and dtypes that an adapter must have."""
        from fedwarm.arrays import from_tensors
        from fedwarm.diffusion.lora import adapter_state, attached

        if not hasattr(self, "_template"):
            with attached(self.foundation.pipe.unet, self.config.diffusion, 0, "template"):
                self._template = from_tensors(adapter_state(self.foundation.pipe.unet))
            if self.settings.local_model_source == "uploaded":
                self._template |= {CLASSIFIER + name: array for name, array in self.arrays.items()}
        return self._template

    def _draw_pool(self) -> None:
        """Generate for every client, class by class, and keep a few pictures for the report."""
        from fedwarm.diffusion.generate import generate
        from fedwarm.diffusion.prompts import prompts

        sentences = prompts(self.settings.prompt, self.fleet.classes)
        pools = []
        for member in self.fleet.members:
            adapter = self.adapters.get(member.partition)
            if self.settings.adapt and adapter is None:
                continue
            tick("clients drawn", member.partition + 1, len(self.fleet.members))
            pools.append(
                generate(
                    self.foundation,
                    to_tensors(adapter) if adapter is not None else None,
                    sentences,
                    member.present,
                    quota(self.settings, member.examples, len(member.present)),
                    self.config.diffusion,
                    seed=self.config.run.seed,
                    client=member.partition,
                    size=self.fleet.image_size,
                    draw=self.draw,
                )
            )
        self.pool = join(pools)
        self._save_pool()

    def _of(self, client: int) -> tuple[Tensor, Tensor]:
        return self.pool.of_client(client) if self.pool is not None else _nothing()

    def _all(self) -> tuple[Tensor, Tensor]:
        return (self.pool.images, self.pool.labels) if self.pool is not None else _nothing()

    # Training at the server

    def _warm_start(self) -> None:
        """w^0: local models on their own images, their average, then the average on all images."""
        if not self.generates:
            return
        begun = time.monotonic()
        self._draw_pool()
        self.record.stage(0, "generate", time.monotonic() - begun, ())
        begun = time.monotonic()
        if self.settings.finetune_targets == "local_and_aggregate" and self.settings.epochs_local:
            mean = WeightedMean()
            for member in self.fleet.members:
                local = self._of(member.partition)
                if len(local[1]):
                    start = self.locals.get(member.partition, self.arrays)
                    tuned = self._tuned(start, local, self.settings.epochs_local, f"local 0 {member.partition}")
                    mean.add(tuned, member.examples)
            self.arrays = mean.result()
        self.arrays = self._tuned(self.arrays, self._all(), self.settings.epochs_warm, "aggregate 0")
        self.record.stage(0, "warm start", time.monotonic() - begun, ())

    def _tuned(self, arrays: Arrays, data: tuple[Tensor, Tensor], epochs: int, purpose: str) -> Arrays:
        """The weights after some epochs on generated images; unchanged where there are none."""
        if not epochs or not len(data[1]):
            return arrays
        model = self.new_model()
        load_module(model, arrays)
        model.to(device_of(self.config.run.device))
        plan = Plan.of(self.config.run, epochs, self.settings.server_learning_rate)
        draws = generator(self.config.run.seed, "server", purpose)
        fit(model, *data, plan, draws, (), "server model")
        return from_module(model)

    # The record

    def _save_adapters(self) -> None:
        from fedwarm.diffusion.lora import save_adapter

        if self.folder is None:
            return
        d = self.config.diffusion
        for client, arrays in self.adapters.items():
            save_adapter(self.folder.path / "adapters" / f"client-{client}", to_tensors(arrays), d.rank, d.alpha, d.targets)

    def _save_pool(self) -> None:
        if self.folder is None or self.pool is None:
            return
        self.pool.save(self.folder.path / "pool" / f"pool-{self.draw}.safetensors")
        if self.config.run.save_pictures:
            save_pictures(self.folder.path / "pictures" / "generated.safetensors", self.pool, PICTURES_PER_CLASS)


def save_pictures(path: Any, pool: Pool, per_class: int) -> None:
    """The first few images of each client and class: tensors `client-k` (classes, per_class, 3, S, S) and their class lists."""
    import json

    from fedwarm.arrays import from_tensors
    from fedwarm.run.record import save_tensors

    grids, classes = {}, {}
    for client in pool.clients.unique().tolist():
        images, labels = pool.of_client(client)
        present = labels.unique().tolist()
        fewest = min([per_class, *[int((labels == c).sum()) for c in present]])
        grids[f"client-{client}"] = torch.stack([images[labels == c][:fewest] for c in present])
        classes[f"client-{client}"] = json.dumps(present)
    save_tensors(path, from_tensors(grids), classes)


def _nothing() -> tuple[Tensor, Tensor]:
    return torch.empty(0), torch.empty(0, dtype=torch.long)

"""WarmFed's server: one upload of adapters, a pool of images drawn from them, a global model trained on it, then rounds.

Feng et al., arXiv 2503.03110 (2025). Stages: `adapt` (once), then `distill` (one-shot protocol), or `round` times R and `distill`
(five-round protocol). The pool is drawn here and stays here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fedwarm.core.arrays import Arrays, from_module, from_tensors, load_module, to_tensors
from fedwarm.core.norms import floats
from fedwarm.core.payload import Payload, PayloadError
from fedwarm.core.placement import cards_for
from fedwarm.core.seeds import generator
from fedwarm.diffusion.adapters import read_adapters, save_adapters
from fedwarm.diffusion.asking import of_client
from fedwarm.diffusion.pool import Pool, join, read_pool
from fedwarm.diffusion.settings import Diffusion
from fedwarm.methods.warmfed import CLASSIFIER, SELECTED, SELECTION, quota, tuning_factor
from fedwarm.methods.warmfed import WarmFed as Settings
from fedwarm.models import device_of, weights_in
from fedwarm.rounds.fleet import FederationError
from fedwarm.rounds.outline import foreseeable
from fedwarm.rounds.server import BaseStrategy, Stage
from fedwarm.scopes import plain
from fedwarm.training.loop import Plan, fit

from .foreseen import efforts
from .pictures import save_pictures

if TYPE_CHECKING:
    from fedwarm.diffusion.foundation import Foundation
    from fedwarm.diffusion.sampling import Through
    from fedwarm.diffusion.tuners import Parts, Tuner


class WarmFed(BaseStrategy):
    """Warm start from personalised diffusion models."""

    method = "warmfed"
    sends_all = True

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        if self.settings.adapts:
            self.tuner.check_settings()
        self.uploads: Arrays = {}
        self.drawn: Arrays = {}
        self.draw = 0

    @property
    def settings(self) -> Settings:
        return self.config.of(Settings)

    @property
    def generates(self) -> bool:
        """Whether any image is drawn at all."""
        return self.settings.synthetic_ratio > 0

    @property
    def tuner(self) -> Tuner:
        """How clients tune their adapters."""
        from fedwarm.diffusion.tuners import tuner_for

        return tuner_for(self.config)

    @foreseeable(efforts)
    def plan(self) -> Iterator[Stage]:
        if self.generates:
            if self.settings.adapts:
                yield Stage(0, "adapt", "train", self.everyone, long=True, action="adapt")
            yield Stage(0, "generate")
            yield Stage(0, "warm start")
        if self.settings.protocol == "one-shot":
            yield Stage(0, "distill", "train", self.everyone, 0, long=True, action="distill")
            return
        for last in range(1, self.config.run.num_server_rounds + 1):
            yield Stage(last, "round", "train", self.everyone, last - 1)
            if self.enough(last - 1):
                break
        yield Stage(last, "distill", "train", self.everyone, last, long=True, action="distill")

    def instruct(self, stage: Stage, client: int) -> Payload:
        if stage.name == "adapt":
            return Payload(facts={"fingerprint": self.foundation.fingerprint})
        return Payload("weights", self.arrays, {"round": stage.round, "model": stage.measures})

    def expected(self, stage: Stage) -> Arrays:
        return self.parts.union(self.partitions) if stage.name == "adapt" else super().expected(stage)

    def expected_of(self, stage: Stage, client: int, payload: Payload, expected: Arrays) -> Arrays:
        if stage.name != "adapt":
            return expected
        return self.parts.of(client) if self.wire_codec.codes else self.parts.answered(client, payload.arrays)

    def reference(self, stage: Stage, client: int) -> Arrays:
        if stage.name != "adapt":
            return super().reference(stage, client)
        first = self.tuner.reference(self.foundation, client)
        return {name: first.get(name, array) for name, array in self.parts.of(client).items()}

    def sampled(self, number: int) -> tuple[int, ...]:
        return self.everyone

    def sends(self) -> dict[str, int]:
        adapt = {"adapt": 1} if self.settings.adapts else {}
        return adapt if self.settings.protocol == "one-shot" else {**adapt, "round": self.config.run.num_server_rounds}

    def check(self, stage: Stage, payload: Payload) -> None:
        super().check(stage, payload)
        if stage.name == "adapt" and payload.text("fingerprint") != self.foundation.fingerprint:
            raise PayloadError("the adapter was tuned on another foundation")

    def begin(self, stage: Stage) -> None:
        self.mean = self.aggregator()
        self.shares: dict[int, float] = {}
        if stage.name == "round" and self.settings.regenerate_each_round and self.generates and self._factor(stage.round) > 0:
            self.draw = stage.round
            self._draw_pool()

    def absorb(self, stage: Stage, client: int, payload: Payload) -> None:
        if SELECTED in payload.metrics:
            self.shares[client] = payload.number(SELECTED)
        if stage.name == "adapt":
            self.uploads.update({f"{client}/{name}": array for name, array in payload.arrays.items()})
        elif stage.name == "round":
            local = payload.arrays
            if self.settings.finetune_targets == "local_and_aggregate":
                factor, purpose = self._factor(stage.round), f"local {stage.round} {client}"
                local = self._tuned(local, self._of(client), self.settings.epochs_local, purpose, factor)
            self.mean.add(local, payload.number("num-examples"))

    def finish(self, stage: Stage) -> None:
        if self.shares:
            self._note_shares(stage.measures)
        if stage.name == "adapt":
            self._refuse_few()
            if self.folder is not None:
                save_adapters(self.folder.path, self._sent(), self.parts)
            self.record.upload(stage.name, self._numbers_sent())
        elif stage.name == "generate":
            if self.settings.attaches and not self.settings.adapts:
                earlier = read_adapters(Path(self.settings.adapters), self.parts)
                self.uploads = {f"{client}/{name}": array for client, own in earlier.items() for name, array in own.items()}
                self._refuse_few()
            self._draw_pool()
        elif stage.name == "warm start":
            self._warm_start()
        elif stage.name == "round":
            epochs, factor = self.settings.epochs_aggregate, self._factor(stage.round)
            self.arrays = self._tuned(self.mean.result(), self._of(), epochs, f"aggregate {stage.round}", factor)

    def _factor(self, number: int) -> float:
        return tuning_factor(self.settings, number, self.config.run.num_server_rounds)

    def state(self) -> dict[str, Arrays]:
        return {**super().state(), "uploads": self.uploads, "pool": self.drawn}

    def facts(self) -> dict[str, Any]:
        return {"draw": self.draw}

    def restore(self, parts: Mapping[str, Arrays], facts: Mapping[str, Any]) -> None:
        super().restore(parts, facts)
        self.uploads, self.drawn, self.draw = dict(parts["uploads"]), dict(parts["pool"]), int(facts["draw"])

    def _sent(self, *, classifier: bool = False) -> dict[int, Arrays]:
        """The adapters of the clients that sent one, or the classifiers that were sent with them."""
        found: dict[int, Arrays] = {}
        for name, array in self.uploads.items():
            client, _, own = name.partition("/")
            if own.startswith(CLASSIFIER) == classifier:
                found.setdefault(int(client), {})[own.removeprefix(CLASSIFIER)] = array
        return {client: found[client] for client in self.partitions if client in found}

    def _refuse_few(self) -> None:
        if self.settings.joins and (sent := len(self._sent())) < self.fewest:
            raise FederationError(f"{sent} clients sent adapters, and robust.rule needs {self.fewest} local models")

    def _numbers_sent(self) -> int:
        """Numbers in the mean upload: clients may send parts of an adapter that differ."""
        clients = {name.partition("/")[0] for name in self.uploads}
        return round(sum(self.uploads[name].size for name in floats(self.uploads)) / len(clients))

    # The foundation and its pool

    @property
    def foundation(self) -> Foundation:
        """The frozen text-to-image model, the same at the server and at every client; on its device only while it draws."""
        from fedwarm.diffusion.foundation import load_foundation

        return load_foundation(self.config.of(Diffusion), self.config.run.device, awake=False)

    @cached_property
    def parts(self) -> Parts:
        """Names, shapes and dtypes of what each client sends of its adapter, and beside it."""
        uploaded = self.settings.local_model_source == "uploaded"
        beside = {CLASSIFIER + name: array for name, array in self.arrays.items()} if uploaded else {}
        return self.tuner.parts(self.foundation, beside)

    def _draw_pool(self) -> None:
        """Generate for every client, class by class, and keep a few pictures for the report."""
        from fedwarm.diffusion.foundation import load_foundation
        from fedwarm.diffusion.generate import Commission, Order, generate_all

        if self.settings.pool:
            self.drawn = from_tensors(read_pool(Path(self.settings.pool), self.sentences).tensors())
            return
        adapters = self.parts.used(sent) if (sent := self._sent()) else {}
        wanted = []
        for member in self.fleet.members:
            adapter = adapters.get(member.partition, {})
            if not member.known or (self.settings.adapt and not adapter):
                continue
            count, seed = quota(self.settings, member.examples, len(member.present)), self.config.run.seed
            said = of_client(self.sentences, len(self.fleet.classes), member.partition)
            order = Order(said, member.present, count, seed, member.partition, self.fleet.image_size, self.draw)
            own = self.parts.attaching(adapter) if adapter else self.config.of(Diffusion)
            wanted.append(Commission(order, to_tensors(adapter) if adapter else None, own, self._kept_batches(member.partition)))
        load = partial(load_foundation, self.config.of(Diffusion), self.config.run.device)
        self.drawn = from_tensors(join(generate_all(load(), wanted, cards_for(self.config.run.device), load)).tensors())
        self.foundation.rest()
        self._save_pool()

    @property
    def sentences(self) -> list[str]:
        """What the foundation is asked for, by style and class."""
        return self.settings.sentences(self.config, self.fleet.classes)

    def _kept_batches(self, client: int) -> Through:
        """What gives the batches that a run drew for a client before it was ended in this stage, and keeps new ones."""
        from fedwarm.diffusion.sampling import drawn_anew

        if self.folder is None:
            return drawn_anew
        told = {"draw": self.draw, "device": self.foundation.device.type}
        return self.folder.pieces.through(self.done, f"drawn-{client}", told)

    @property
    def pool(self) -> Pool:
        """What was drawn, with its provenance."""
        return Pool(**to_tensors(self.drawn), prompts=tuple(self.sentences))

    def _of(self, client: int | None = None) -> tuple[Tensor, Tensor]:
        """Images and labels that were drawn for a client, or for all."""
        if not self.drawn:
            return torch.empty(0), torch.empty(0, dtype=torch.long)
        return (self.pool.images, self.pool.labels) if client is None else self.pool.of_client(client)

    # Training at the server

    def _warm_start(self) -> None:
        """w^0: local models on their own images, their average, then the average on all images; or an earlier run's."""
        if self.settings.warmed:
            start = plain(self.new_model(), to_tensors(self.arrays))
            warm = weights_in(self.settings.warm_model, "warmfed.warm-model", start)
            self.arrays = {**self.arrays, **from_tensors(warm)}
            return
        mean, epochs, models = self.aggregator(), self.settings.local_epochs, 0
        uploaded = self._sent(classifier=True)
        for member in self.fleet.members if self.settings.joins else ():
            local, own = self._of(member.partition), uploaded.get(member.partition, {})
            if own or (epochs and len(local[1])):
                mean.add(self._tuned(own or self.arrays, local, epochs, f"local 0 {member.partition}"), member.examples)
                models += 1
        self.arrays = mean.result() if models else self.arrays
        self.arrays = self._tuned(self.arrays, self._of(), self.settings.epochs_warm, "aggregate 0")

    def _tuned(self, arrays: Arrays, data: tuple[Tensor, Tensor], epochs: int, purpose: str, factor: float = 1.0) -> Arrays:
        """The weights after some epochs on generated images, at a part of the step size; unchanged where there are none."""
        if not epochs or not len(data[1]) or not factor:
            return arrays
        model = self.new_model()
        load_module(model, arrays)
        model.to(device_of(self.config.run.device))
        rate = self.settings.server_learning_rate or (self.config.run.learning_rate if factor != 1 else 0.0)
        plan = Plan.of(self.config.run, epochs, factor * rate)
        fit(model, *data, plan, generator(self.config.run.seed, "server", purpose), (), "server model")
        return from_module(model)

    # The record

    def _note_shares(self, number: int) -> None:
        """Which share of its images each client's rule selected for distillation, in the mean over epochs, by model."""
        known = dict(self.record.others.get(SELECTION, {}).get("models", {}))
        known[str(number)] = [self.shares.get(client) for client in self.partitions]
        self.record.found(SELECTION, {"rule": self.settings.selection, "models": known})

    def _save_pool(self) -> None:
        if self.folder is None:
            return
        self.pool.save(self.folder.path / "pool" / f"pool-{self.draw}.safetensors")
        if self.config.run.save_pictures and len(self.pool):
            save_pictures(self.folder.path / "pictures" / "generated.safetensors", self.pool)

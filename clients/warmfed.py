"""WarmFed's client: tunes an adapter on its images, and makes a personal model by dynamic self-distillation.

Feng et al., arXiv 2503.03110. The personal model and its teachers stay in the client's store.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cache
from statistics import fmean
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fedwarm.core.arrays import Arrays, from_module, from_tensors, to_tensors
from fedwarm.core.files import DiskError
from fedwarm.core.payload import Fact, Payload
from fedwarm.data.originals import Originals
from fedwarm.diffusion.settings import Diffusion
from fedwarm.methods.warmfed import CLASSIFIER, COMPARED, SCORED, SELECTED, WarmFed
from fedwarm.privacy.levels import Level, Reasons
from fedwarm.relevance import Run
from fedwarm.rounds.client import PERSONAL, BaseClient
from fedwarm.rounds.measuring import GLOBAL, together
from fedwarm.rounds.measuring import PERSONAL as OWN
from fedwarm.settings.fields import SettingError
from fedwarm.training.evaluate import predict
from fedwarm.training.loop import Hook, Plan, fit
from fedwarm.training.selection import SelfDistillation, best_of

if TYPE_CHECKING:
    from fedwarm.diffusion.foundation import Foundation
    from fedwarm.diffusion.tuners import Tuner

HELD_SHARE = 5
ADAPTED = "adapted"


class WarmFedClient(BaseClient):
    """Actions: `adapt` (once), `round` (five-round protocol), `distill` (the end)."""

    @property
    def settings(self) -> WarmFed:
        return self.config.of(WarmFed)

    def tells(self, level: Level) -> Reasons:
        """The foundation and the adapter's settings; not how often the personal model is right, as its training has no noise."""
        known = dict.fromkeys(("fingerprint", "rank", "alpha"), "settings of the run, and the foundation that all have")
        return {**super().tells(level), **known}

    def withholds(self, level: Level) -> frozenset[str]:
        return super().withholds(level) | ({SELECTED} if level > Level.OPEN else set())

    def adapt(self, payload: Payload) -> Payload:
        """Tune LoRA matrices on this client's images; they are all that leaves (and a classifier, by setting).

        They are kept here, so that a client that is asked again, as by a run that was ended meanwhile, does not tune again.
        """
        from fedwarm.diffusion.foundation import load_foundation
        from fedwarm.diffusion.midway import forget

        shard, run, diffusion = self.shard, self.config.run, self.config.of(Diffusion)
        if Run.of(self.config).begins:
            self.model()  # where its weights are not on this machine, that is said before hours of tuning
        foundation = load_foundation(diffusion, run.device, awake=False)
        if payload.text("fingerprint") != foundation.fingerprint:
            raise ValueError("this client's foundation differs from the server's; set diffusion.foundation to the same model")
        facts: dict[str, Fact] = {"fingerprint": foundation.fingerprint, "rank": diffusion.rank, "alpha": diffusion.alpha}
        kept = self.node.store.load(ADAPTED)
        if kept is None:
            foundation.wake()
            arrays = self._adapted(foundation)
            foundation.rest()
            with suppress(SettingError, DiskError):  # without room for it the run goes on
                self.node.store.save(ADAPTED, {f"{i:06d} {n}": t for i, (n, t) in enumerate(to_tensors(arrays).items())}, 0)
            forget(self.node.store.folder)
        else:
            arrays = {name.partition(" ")[2]: array for name, array in sorted(from_tensors(kept).items())}
        return Payload("adapter", arrays, {"num-examples": len(shard.train_labels), **self.spent}, facts)

    def _adapted(self, foundation: Foundation) -> Arrays:
        from fedwarm.diffusion.asking import of_client

        classes = self.shard.classes
        said = of_client(self.settings.sentences(self.config, classes), len(classes), self.node.partition)
        arrays = from_tensors(self._tuned(foundation, said))
        if self.settings.local_model_source == "uploaded":
            local = self.model()
            self.fit(local, "train", 0)
            arrays |= {CLASSIFIER + name: array for name, array in from_module(local).items()}
        return arrays

    @property
    def tuner(self) -> Tuner:
        """The run's way to tune adapters."""
        from fedwarm.diffusion.tuners import tuner_for

        return tuner_for(self.config)

    def _tuned(self, foundation: Foundation, sentences: list[str]) -> dict[str, Tensor]:
        """The adapter's matrices, by the tuner of the settings."""
        from fedwarm.diffusion.tuning import Tuning
        from fedwarm.diffusion.views import Views

        shard, diffusion, tuner = self.shard, self.config.of(Diffusion), self.tuner
        tuner.check_settings()
        private = self.mechanism("adapt", 0)
        labels, draws = shard.train_labels, self.draws("views")
        views = Views(shard.train_images, self._originals(), foundation.image_size, diffusion, draws, private is not None)
        images, told = views.whole, labels.repeat_interleave(views.each)
        tuning = Tuning(foundation, images, told, sentences, diffusion, self.config.run.seed, self.node.partition)
        steps = None if private is None else private.steps(len(labels), diffusion.lora_batch_size, diffusion.lora_steps)
        state = tuner.tune(tuning, private, self.node.store.folder)
        if steps is not None:
            self.spend(steps, 0)
        return state

    def _originals(self) -> Originals | None:
        """This client's pictures as they came; None where there are none but the shard's."""
        found = self.holding.originals()
        return found if found is not None and len(found) == len(self.shard.train_labels) else None

    def privately(self) -> list[tuple[int, int, int]]:
        diffusion, settings = self.config.of(Diffusion), self.settings
        n, batch, steps = super().privately()[0]
        adapt = [(n, diffusion.lora_batch_size, diffusion.lora_steps)] if settings.adapts else []
        uploaded = steps // self.config.run.num_server_rounds if settings.local_model_source == "uploaded" else 0
        return [*adapt, (n, batch, uploaded + (steps if settings.protocol == "five-round" else 0))]

    def reference(self, action: str, payload: Payload) -> Arrays:
        if action != "adapt":
            return super().reference(action, payload)
        from fedwarm.diffusion.foundation import load_foundation

        foundation = load_foundation(self.config.of(Diffusion), self.config.run.device, awake=False)
        arrays = self.tuner.reference(foundation, self.node.partition)
        if self.settings.local_model_source == "uploaded":
            arrays |= {CLASSIFIER + name: array for name, array in from_module(self.model()).items()}
        return arrays

    def round(self, payload: Payload) -> Payload:
        """First the personal model of the received weights, then their training for the server."""
        measured = self.distill(payload)
        reply = super().round(payload)
        return Payload(reply.kind, reply.arrays, {**reply.metrics, **measured.metrics})

    def distill(self, payload: Payload) -> Payload:
        """Make the personal model from the received one and measure both; only the counts leave.

        The student starts at the received weights w; the teacher is the previous personal model, or the first one by setting.
        """
        number, settings = int(payload.number("model")), self.settings
        warm, student = self.model(payload), self.model(payload)
        images, labels, held = self._split()
        hooks: list[Hook] = []
        if settings.selection != "never" and (held is not None or settings.selection not in COMPARED):
            hooks = [SelfDistillation(self._teaching(warm, number, held), settings, images, labels, held)]
        plan = Plan.of(self.config.run, settings.distill_epochs, settings.distill_learning_rate)
        fit(student, images, labels, plan, self.draws("distill", number), hooks, "personal model")
        self.node.store.save(PERSONAL, student.state_dict(), number)
        shares = [share for hook in hooks if isinstance(hook, SelfDistillation) for share in hook.shares]
        told = Payload(metrics={SELECTED: fmean(shares)} if shares else {})
        return together(self.sizes(), self.measured(warm, GLOBAL), self.measured(student, OWN), told)

    def _teaching(self, warm: nn.Module, number: int, held: tuple[Tensor, Tensor] | None) -> nn.Module | Tensor:
        """Who teaches, or what it says of this client's images where no part of them is to be judged by who learned from it."""
        settings = self.settings
        if settings.selection in SCORED and settings.teacher_first == "local" and settings.teacher_folds > 1:
            return self._unseen(settings.teacher_folds)
        local = cache(lambda: self._local(number))  # trained once, if at all
        teacher = self._teacher(warm, number, local)
        if settings.selection == "model_best" and held is not None:
            teacher = best_of([teacher, local(), warm], *held)
        return teacher

    def _unseen(self, folds: int) -> Tensor:
        """Logits (n, classes) of each image by a first teacher that learned from the other parts; parts are drawn once."""
        images, labels, _ = self._split()
        rows = torch.randperm(len(labels), generator=self.draws("folds"))
        parts = [part for part in rows.tensor_split(min(folds, len(labels))) if len(part)]
        said = [(part, predict(self._local(0, rows[~torch.isin(rows, part)]), images[part])) for part in parts]
        logits = torch.cat([told for _, told in said])
        return logits[torch.argsort(torch.cat([part for part, _ in said]))]

    def _split(self) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
        """Images and labels to learn from, and a held-out fifth for the rules that compare models; none of fewer than five."""
        images, labels = self.shard.train_images, self.shard.train_labels
        if self.settings.selection not in COMPARED or len(labels) < HELD_SHARE:
            return images, labels, None
        rows = torch.randperm(len(labels), generator=self.draws("held"))
        held, kept = rows[: len(labels) // HELD_SHARE], rows[len(labels) // HELD_SHARE :]
        return images[kept], labels[kept], (images[held], labels[held])

    def _teacher(self, warm: nn.Module, number: int, local: Callable[[], nn.Module]) -> nn.Module:
        """The personal model of the round before, else the first teacher."""
        state = self.node.store.load(PERSONAL, before=number)
        if state is not None:
            return self.kept_model(state)
        return warm if self.settings.teacher_first == "synth" else local()

    def _local(self, number: int, rows: Tensor | None = None) -> nn.Module:
        """A model trained on this client's data alone, or on some rows of them, from the shared start."""
        model = self.model()
        images, labels, _ = self._split()
        if rows is not None:
            images, labels = images[rows], labels[rows]
        plan = Plan.of(self.config.run, self.settings.teacher_epochs)
        fit(model, images, labels, plan, self.draws("teacher", number), (), "teacher")
        return model

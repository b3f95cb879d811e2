"""What every client does: describe itself, build the model, measure it, and train it by the one loop with the method's hooks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from fedwarm.augmentations.gen_fedsd.amounts import GenFedSD, weight
from fedwarm.augmentations.gen_fedsd.checks import augmenting, global_rule, histogram, secret, shelf_root
from fedwarm.augmentations.gen_fedsd.fill import fill
from fedwarm.codecs import codec_for
from fedwarm.core.arrays import Arrays, from_module, from_tensors, to_tensors
from fedwarm.core.parts import Place
from fedwarm.core.payload import Fact, Payload
from fedwarm.core.seeds import generator
from fedwarm.data import Shard
from fedwarm.data.own import Holding
from fedwarm.data.settings import Data
from fedwarm.measures.widths import Evaluate, hooks_of, learned_of, scheme_of, widths
from fedwarm.methods import method_of
from fedwarm.models import Model, build_model, device_of
from fedwarm.objectives import is_learned, learned_state
from fedwarm.privacy.mechanisms.dp_sgd.gradient import DpSgd, Mechanism, Steps, example_epsilon, rate_of, source_of, steps_of
from fedwarm.rounds.node import Node as Node
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError
from fedwarm.training.evaluate import correct
from fedwarm.training.loop import Hook, Plan, fit

Action = Literal["describe", "gaps", "augment", "round", "adapt", "distill", "evaluate"]
PERSONAL, ACCOUNT, SYNTHETIC, HISTOGRAM = "personal", "account", "synthetic", "histogram"
UPLOADING = ("round", "adapt")


class BaseClient:
    """A trainer: answers one message with one payload. A method overrides `hooks`, `round`, or adds actions.

    Args:
        config: the run's settings.
        node: who this client is.
    """

    def __init__(self, config: Config, node: Node) -> None:
        self.config, self.node = config, node

    @property
    def holding(self) -> Holding:
        return self.node.holding(self.config.of(Data), self.config.run.seed)

    @cached_property
    def real(self) -> Shard:
        """This client's own data."""
        return self.holding.shard()

    @cached_property
    def shard(self) -> Shard:
        """What this client trains on: its own data, and what was drawn beside them by the setting `augment`."""
        return self.real.joined(*self.synthetic()) if augmenting(self.config) else self.real

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
        if self.config.run.codec == "dense" or action not in UPLOADING:
            return do(payload)
        return self.coded(action, payload, do)

    def coded(self, action: Action, payload: Payload, do: Callable[[Payload], Payload]) -> Payload:
        """The answer through the run's codec.

        A private one's is kept, and what is asked for again is answered by the same bytes: a second draw would tell more than
        the account knows of.
        """
        number, codec = int(payload.metrics.get("round", 0)), codec_for(self.config)
        place, kept = Place(self.config.run.seed, action, number, self.node.partition), f"sent-{action}"
        reply = do(payload)
        if not reply.arrays:
            return reply
        new = {name: np.zeros_like(array) for name, array in reply.arrays.items() if is_learned(name)}
        told = codec.encode(reply, payload, {**new, **self.reference(action, payload)}, place, self.device)
        if codec.private and number in self.node.store.steps(kept):
            return replace(told, arrays=from_tensors(self.node.store.load(kept, before=number + 1) or {}))
        if codec.private:
            self.node.store.save(kept, to_tensors(told.arrays), number)
        return told

    def reference(self, action: Action, payload: Payload) -> Arrays:
        """What the server knows beforehand of the arrays that an action answers with."""
        return payload.arrays

    def model(self, payload: Payload | None = None) -> nn.Module:
        """The shared initialisation, or the model with the payload's weights."""
        run, shard = self.config.run, self.real
        arrays = {} if payload is None else payload.arrays
        state = to_tensors({n: a for n, a in arrays.items() if not is_learned(n)}) if arrays else None
        size = shard.train_images.shape[-1]
        return build_model(self.config.of(Model), len(shard.classes), size, run.seed, state).to(self.device)

    def draws(self, purpose: str, number: int = 0) -> torch.Generator:
        """This client's generator for a purpose in a round."""
        return generator(self.config.run.seed, purpose, number, self.node.partition)

    def describe(self, payload: Payload) -> Payload:
        """Partition, sizes and classes; counts per class only where the settings share them and examples are not private."""
        shard, counts = self.real, self.real.counts()
        unsaid = self.config.run.privacy != "none" or (global_rule(self.config) and not self.config.of(Data).share_class_counts)
        facts: dict[str, Fact] = {
            "classes": list(shard.classes),
            "present": [c for c, n in enumerate(counts) if n or unsaid],
        }
        if self.config.of(Data).share_class_counts and not unsaid:
            facts["counts"] = counts
        if codec_for(self.config).private:
            return self.unnamed()
        sizes = {
            "partition": self.node.partition,
            "partitions": self.node.partitions,
            "num-examples": len(shard.train_labels),
            "num-test": len(shard.test_labels),
            "image-size": int(shard.train_images.shape[-1]),
        }
        return Payload(metrics=dict(sizes), facts=facts)

    def unnamed(self) -> Payload:
        """A description without anything of this client's own: it stands for one image of every class."""
        classes = self.real.classes
        sizes = {
            "partition": self.node.partition,
            "partitions": self.node.partitions,
            "num-examples": 1,
            "num-test": 0,
            "image-size": int(self.real.train_images.shape[-1]),
        }
        return Payload(metrics=dict(sizes), facts={"classes": list(classes), "present": list(range(len(classes)))})

    def hooks(self) -> list[Hook]:
        """Terms and transforms of the method's local objective; those of the setting `objective` come before them."""
        return method_of(self.config).local_hooks(self.config)

    def round(self, payload: Payload) -> Payload:
        """Train the received model on this client's data; answer with its weights, and what the objective learned beside them."""
        model, learned = self.model(payload), {n: a for n, a in payload.arrays.items() if is_learned(n)}
        done = self.fit(model, "train", int(payload.metrics.get("round", 0)), learned)
        arrays = {**from_module(model), **learned}
        told = {"train-loss": done} if self.config.run.privacy == "none" else {}
        return Payload("weights", arrays, {"num-examples": self.weight, **told, **self.spent})

    @property
    def weight(self) -> int:
        """What this client counts for in an average, in images."""
        if not augmenting(self.config):
            return len(self.shard.train_labels)
        real = self.real.counts()
        return weight(self.config.of(GenFedSD), real, [n - m for n, m in zip(self.shard.counts(), real, strict=True)])

    def fit(self, model: nn.Module, purpose: str, number: int, learned: Arrays | None = None) -> float:
        """Train in place on this client's images by the run's plan, objective and hooks; the mean loss of the last epoch.

        Args:
            model: what is trained.
            purpose, number: what the draws are for, and in which round; 0 is before the first, and has its objective.
            learned: what the objective learned so far; what it learns is put in its place.
        """
        plan, shard = Plan.of(self.config.run), self.shard
        objective = hooks_of(self.config, max(1, number), self.draws("objective", number), to_tensors(learned or {}))
        hooks = [*objective, *self.hooks()]
        private = self.mechanism(purpose, number)
        draws = self.draws(purpose, number)
        done = fit(model, shard.train_images, shard.train_labels, plan, draws, hooks, private=private)
        if done.spent is not None:
            self.spend(done.spent, number)
        if learned is not None:
            learned.update(from_tensors(learned_state(objective)))
        return done.loss

    # Synthetic data (setting `augment`)

    def gaps(self, payload: Payload) -> Payload:
        """This client's class histogram; one with noise counts all its images, and is told again as it is when asked again."""
        kept = self.node.store.load(HISTOGRAM)
        if kept is None:
            counts = self.holding.counts() if self.config.of(GenFedSD).histogram_epsilon > 0 else self.real.counts()
            kept = {"counts": torch.tensor(histogram(self.config, counts))}
            self.node.store.save(HISTOGRAM, kept, 0)
        return Payload(facts={"counts": kept["counts"].tolist()})

    def augment(self, payload: Payload) -> Payload:
        """Have the images drawn that this client's classes lack; they stay here, and a few numbers say what it took."""
        filled = fill(self.config, self.real, self.node.partition, shelf_root(self.config), payload.count("target"))
        self.node.store.save(SYNTHETIC, {"images": filled.images, "labels": filled.labels}, 0)
        if secret(self.config):
            return Payload()
        report, shown = filled.report, self.config.of(Data).share_class_counts
        numbers = {name: value for name, value in report.facts().items() if isinstance(value, (int, float))}
        if not shown:
            return Payload(metrics={name: numbers[name] for name in ("seconds", "drawn_seconds")})
        return Payload(metrics=numbers, facts={"synthetic": report.synthetic})

    def synthetic(self) -> tuple[Tensor, Tensor]:
        """Images and labels that were drawn for this client.

        Raises:
            SettingError: they are gone, as when its disk made room for other runs.
        """
        found = self.node.store.load(SYNTHETIC)
        if found is None:
            raise SettingError(
                f"the synthetic images of client {self.node.partition} are gone from {self.node.store.folder}; raise "
                "client-state-mb and begin the run anew: what its shelf still holds is not drawn again"
            )
        return found["images"], found["labels"]

    # Example-level privacy (setting `privacy`)

    @property
    def spent(self) -> dict[str, float]:
        """`epsilon` of an example so far, as a metric; nothing where training is not private."""
        if self.config.run.privacy == "none":
            return {}
        return {"epsilon": example_epsilon(self._account(), self.config.of(DpSgd).delta)}

    def privately(self) -> list[tuple[float, int]]:
        """All that this client trains and sends of in a run, at most: (rate, steps) each."""
        run, n = self.config.run, len(self.shard.train_labels)
        return [(rate_of(n, run.batch_size), run.num_server_rounds * steps_of(n, run.batch_size, run.local_epochs))]

    def mechanism(self, purpose: str, number: int) -> Mechanism | None:
        """How a training's steps are made private; None where they are not."""
        if self.config.run.privacy == "none":
            return None
        settings = self.config.of(DpSgd)
        source = source_of(settings, self.config.run.seed, purpose, number, self.node.partition)
        return Mechanism.of(settings, self.privately(), source)

    def spend(self, steps: Steps, number: int) -> None:
        """Book private steps; what is trained anew for a message that is sent again is booked again, unless its draws are."""
        again = number if self.config.of(DpSgd).entropy == "seeded" else None
        taken = [*self._account(again), steps]
        rows = torch.tensor([[s.rate, s.noise_multiplier, s.count] for s in taken], dtype=torch.float64)
        self.node.store.save(ACCOUNT, {"steps": rows}, number)

    def _account(self, before: int | None = None) -> list[Steps]:
        found = self.node.store.load(ACCOUNT, before=before)
        return [Steps(rate, noise, int(count)) for rate, noise, count in found["steps"].tolist()] if found else []

    def evaluate(self, payload: Payload) -> Payload:
        """Right answers on this client's own test images: of the received model and of the personal one, if there is one."""
        metrics: dict[str, int | float] = {"num-test": len(self.real.test_labels)}
        if payload.arrays and payload.facts.get("widths"):
            return Payload(metrics={**metrics, **self.at_widths(payload)})
        if payload.arrays:
            metrics["correct-global"] = self.correct(self.model(payload))
        state = self.node.store.load(PERSONAL, before=payload.count("round") + 1)
        if state is not None:
            personal = self.model()
            personal.load_state_dict(state)
            metrics["correct-personal"] = self.correct(personal)
        return Payload(metrics=metrics)

    def at_widths(self, payload: Payload) -> dict[str, int]:
        """Right answers of the received model at every width of `evaluate.bit-widths`, as `correct-w4`, `correct-w4a4`.

        The activations' ranges are those on some of this client's own training images.
        """
        from fedwarm.quantize.sweep import right_answers

        chosen, shard = self.config.of(Evaluate), self.real
        tests = (shard.test_images, shard.test_labels)
        known = shard.train_images[_even(len(shard.train_images), chosen.calibration_images)] if chosen.activations else None
        scheme, learned = scheme_of(self.config), learned_of(self.config, to_tensors(payload.arrays))
        found = right_answers(self.model(payload), widths(self.config), *tests, known, scheme, learned)
        return {f"correct-{name}": count for name, count in found.items()}

    def correct(self, model: nn.Module) -> int:
        """Right answers of a model on this client's own test images."""
        return correct(model, self.real.test_images, self.real.test_labels)


def _even(count: int, most: int) -> Tensor:
    """At most so many of `count` rows, at even distances: data that are stored class by class show all of them."""
    return torch.arange(min(count, most)) * count // max(1, min(count, most))

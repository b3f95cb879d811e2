"""The client's side of a run: describe its data, build the model, train it with the method's hooks, and measure it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import cached_property, reduce

import numpy as np
import torch
from torch import Tensor, nn

from fedwarm.codecs import Codec, codec_for
from fedwarm.core.arrays import Arrays, from_module, from_tensors, to_tensors
from fedwarm.core.payload import Fact, Payload
from fedwarm.core.seeds import generator
from fedwarm.core.stages import Place
from fedwarm.data import Shard
from fedwarm.data.node import Node as Node
from fedwarm.data.own import Holding
from fedwarm.data.settings import Data
from fedwarm.methods import method_of, refuse
from fedwarm.models import Model, build_model, device_of
from fedwarm.objectives import hooks_of, is_learned, learned_state
from fedwarm.parts import ClientPart
from fedwarm.privacy.levels import ARRAYS, PRICED, Level, Reasons
from fedwarm.privacy.limits import Limits
from fedwarm.relevance import Run
from fedwarm.rounds import fixed
from fedwarm.rounds.chosen import parts_of
from fedwarm.rounds.fleet import described
from fedwarm.rounds.gate import DESCRIBED, HELD, TESTS, VALIDATION, Gate, level_of, refuse_fitted, refuse_uncovered
from fedwarm.rounds.measuring import GLOBAL, Measures, found_at, together, told
from fedwarm.rounds.measuring import PERSONAL as OWN
from fedwarm.settings.config import Config
from fedwarm.settings.kinds import PRIVACY
from fedwarm.tasks import task_of
from fedwarm.training.cohort import fit
from fedwarm.training.evaluate import Found
from fedwarm.training.loop import Hook, Plan, steps_of
from fedwarm.training.private import Mechanism, Receipt

PERSONAL = "personal"
UNTOLD = logging.getLogger("fedwarm").debug  # the server tells


class BaseClient:
    """A trainer: answers one message with one payload. A method overrides `hooks`, `round`, or adds actions.

    Args:
        config: the run's settings.
        node: who this client is.
    """

    def __init__(self, config: Config, node: Node) -> None:
        refuse(config)
        refuse_uncovered(config)
        self.config, self.node, self.steps, self.needs_fixed = config, node, 0, False

    @property
    def holding(self) -> Holding:
        return self.node.holding(self.config.of(Data), self.config.run.seed)

    @cached_property
    def real(self) -> Shard:
        """This client's own data.

        Raises:
            SettingError: they were scaled by statistics of theirs, which the run's account does not cover.
        """
        found = self.holding.shard()
        refuse_fitted(found.fitted, self.level)
        return found

    @cached_property
    def shard(self) -> Shard:
        """The data that this client trains on: its own, as changed by the run's parts."""
        return reduce(lambda shard, part: part.data(shard), self.halves, self.real)

    @cached_property
    def halves(self) -> list[ClientPart]:
        """This client's halves of the run's parts."""
        return [part.client(self.config, self.node) for part in parts_of(self.config).values()]

    @cached_property
    def codec(self) -> Codec:
        return codec_for(self.config)

    @cached_property
    def device(self) -> torch.device:
        return device_of(self.config.run.device)

    @cached_property
    def facts(self) -> Run:
        """Facts that follow from the run's settings."""
        return Run.of(self.config)

    @cached_property
    def level(self) -> Level:
        """The level of privacy that the run's account covers."""
        return level_of(self.facts)

    @property
    def counts_hidden(self) -> bool:
        """Whether an example's price, which follows from how many images there are, tells what the account hides."""
        return self.level == Level.CLIENT and self.config.run.privacy != PRIVACY.first

    def part(self, action: str) -> ClientPart | None:
        """The half of a part that answers an action; None where the method does."""
        return next((part for part in self.halves if action in part.actions), None)

    def tells(self, level: Level) -> Reasons:
        """Names that may leave this client in a private run, each with its reason (see `rounds.gate`)."""
        return {ARRAYS: f"{PRICED}trained by private steps"} if level == Level.EXAMPLE else {}

    def withholds(self, level: Level) -> frozenset[str]:
        """Names that are removed from replies in a private run, as no account covers them and nobody needs them."""
        sizes = {"num-examples"} if level == Level.CLIENT else set()
        return frozenset({"train-loss", "correct-personal", *sizes} if level >= Level.EXAMPLE else {"counts"})

    def gate(self, action: str) -> Gate:
        """The gate that decides which parts of an answer may leave."""
        part = self.part(action)
        if part is not None:
            return Gate.of(self.level, part)
        described = [DESCRIBED] if action == "describe" else []
        return Gate.of(self.level, Measures(self.config), self, self.codec, *self.halves, *described)

    def answer(self, action: str, payload: Payload) -> Payload:
        """Perform the action that a message asks for.

        Raises:
            NotImplementedError: this method has no such action.
            RefusalError: this node's limits allow private runs alone.
        """
        private = self.facts.hides or self.config.run.privacy != PRIVACY.first
        self.config.of(Limits).check_run(private, system=True)
        payload, self.needs_fixed = fixed.taken(payload, self.node.store)
        part = self.part(action)
        do: Callable[[Payload], Payload] | None = getattr(self, action, None)
        if part is not None:
            return part.answer(action, payload, self)
        if do is None:
            raise NotImplementedError(f"{type(self).__name__} has no action {action!r}")
        return self.coded(action, payload, do) if self.codec.codes else do(payload)

    def coded(self, action: str, payload: Payload, do: Callable[[Payload], Payload]) -> Payload:
        """Perform an action and encode its answer with the run's codec.

        A private one's is kept, and what is asked for again is answered by the same bytes: a second draw would tell more than
        the account knows of.
        """
        place = Place(self.config.run.seed, action, int(payload.metrics.get("round", 0)), self.node.partition)
        reply = do(payload)
        if not reply.arrays:
            return reply
        new = {name: np.zeros_like(array) for name, array in reply.arrays.items() if is_learned(name)}
        reference = {**new, **self.reference(action, payload)}

        def encode() -> Payload:
            return self.codec.encode(reply, payload, reference, place, self.device)

        share = self.config.run.fraction_train if self.facts.samples else 1.0
        encoded = self.codec.guarded(self.node, place, payload, reference, encode, share)
        if not self.codec.feedback and not self.codec.private:
            self.read(lambda: self.codec.decode(encoded, reference, place))
        return encoded

    def read(self, reply: Callable[[], Payload]) -> None:
        """Called with what the server will read of an answer, where a codec has changed it and nothing is added later."""

    def reference(self, action: str, payload: Payload) -> Arrays:
        """Arrays that the server knows before the answer to an action."""
        return payload.arrays

    def model(self, payload: Payload | None = None, plain: bool = False) -> nn.Module:
        """The shared initialisation, or the model with the payload's weights (`plain`: see `parts.Trainer`)."""
        run, shard, settings = self.config.run, self.real, self.config.of(Model)
        arrays = {n: a for n, a in payload.arrays.items() if not is_learned(n)} if payload is not None else {}
        state = {**fixed.kept(self.node.store, self.needs_fixed), **to_tensors(arrays)} if arrays else None
        sizes = task_of(run).width(len(shard.classes)), shard.form, run.seed
        model = build_model(settings, *sizes, state, UNTOLD)
        model = fixed.plain(settings, model, *sizes) if plain else model
        return model if self.device.type == "cpu" else model.to(self.device)

    def kept_model(self, state: Mapping[str, Tensor]) -> nn.Module:
        """A model out of what this client kept: its start, `model.weights`, need not be on this machine."""
        return self.model(Payload("weights", from_tensors(state)))

    def draws(self, purpose: str, number: int = 0) -> torch.Generator:
        """This client's generator for a purpose in a round."""
        return generator(self.config.run.seed, purpose, number, self.node.partition)

    def describe(self, payload: Payload) -> Payload:
        """Partition, sizes, form of inputs, classes; counts per class only where the settings share them and nothing is private.

        A client whose images are private all together stands for one image of every class.
        """
        shard, counts, hidden = self.real, self.real.counts(), self.level == Level.CLIENT
        form, told = described(shard.form)
        facts: dict[str, Fact] = {
            "classes": list(shard.classes),
            "present": [c for c, n in enumerate(counts) if n or self.level != Level.OPEN],
            **told,
        }
        if not shard.classed:
            facts["answers"] = True
        elif self.config.of(Data).share_class_counts and self.level == Level.OPEN:
            facts["counts"] = counts
        sizes: dict[str, int | float] = {
            "partition": self.node.partition,
            "partitions": self.node.partitions,
            "num-examples": 1 if hidden else len(shard.train_labels),
            "num-test": 0 if hidden else len(shard.test_labels),
            **form,
        }
        return Payload(metrics=sizes, facts=facts)

    def hooks(self) -> list[Hook]:
        """Terms and transforms of the method's local objective; those of the setting `objective` come before them."""
        return method_of(self.config).local_hooks(self.config)

    def round(self, payload: Payload) -> Payload:
        """Train the received model on this client's data; answer with its weights, and what the objective learned beside them."""
        model, learned = self.model(payload), {n: a for n, a in payload.arrays.items() if is_learned(n)}
        done = self.fit(model, "train", int(payload.metrics.get("round", 0)), learned)
        trained = {name: array for name, array in from_module(model).items() if name in payload.arrays}
        return Payload("weights", {**trained, **learned}, {"num-examples": self.weight, "train-loss": done, **self.spent})

    @property
    def weight(self) -> int:
        """The weight of this client in an average, in images."""
        said = (part.weight(self.real, self.shard) for part in self.halves)
        return next((weight for weight in said if weight is not None), len(self.shard.train_labels))

    def fit(self, model: nn.Module, purpose: str, number: int, learned: Arrays | None = None) -> float:
        """Train in place on this client's images by the plan, objective and hooks, in `steps`; the mean loss of the last epoch.

        Args:
            model: what is trained.
            purpose: what the draws are for.
            number: the round; 0 is before the first, and has its objective.
            learned: what the objective learned so far; what it learns is put in its place.
        """
        plan, shard = Plan.of(self.config.run, number=number), self.shard
        objective = hooks_of(self.config, max(1, number), self.draws("objective", number), to_tensors(learned or {}))
        hooks, private = [*objective, *self.hooks()], self.mechanism(purpose, number)
        draws = self.draws(purpose, number)
        done = fit(model, shard.train_images, shard.train_labels, plan, draws, hooks, private=private)
        self.steps = done.steps
        if done.spent is not None:
            self.spend(done.spent, number)
        if learned is not None:
            learned.update(from_tensors(learned_state(objective)))
        return done.loss

    def privately(self) -> list[tuple[int, int, int]]:
        """Upper bound of this client's trainings in a run: (examples, batch size, steps) each."""
        run, n = self.config.run, len(self.shard.train_labels)
        return [(n, run.batch_size, run.num_server_rounds * steps_of(n, run.batch_size, run.local_epochs))]

    def mechanism(self, purpose: str, number: int) -> Mechanism | None:
        """The privacy mechanism of a training's steps; None without one."""
        return next(filter(None, (part.mechanism(self.privately, purpose, number) for part in self.halves)), None)

    def spend(self, receipt: Receipt, number: int) -> None:
        """Enter the cost of a private training into the account."""
        for part in self.halves:
            part.spend(receipt, number)

    @property
    def spent(self) -> dict[str, float]:
        """The privacy spent so far, as metrics."""
        return {name: value for part in self.halves for name, value in part.spent().items()}

    def evaluate(self, payload: Payload) -> Payload:
        """What comes of the received model and of the personal one, if there is one, on this client's own test examples."""
        found = [self.sizes()]
        if payload.arrays:
            found.append(self.measured(self.model(payload), GLOBAL))
        state = self.node.store.load(PERSONAL, before=payload.count("round") + 1)
        if state is not None:
            found.append(self.measured(self.kept_model(state), OWN))
        return together(*found)

    def sizes(self) -> Payload:
        """How many examples this client measures on."""
        held = {} if self.real.validation is None else {HELD: len(self.real.validation[1])}
        return Payload(metrics={TESTS: len(self.real.test_labels), **held})

    def measured(self, model: nn.Module, whose: str) -> Payload:
        """What a model comes to on this client's own test examples, and on those that it holds back."""
        found = [told(self.found(model, (self.real.test_images, self.real.test_labels)), whose)]
        if self.real.validation is not None:
            found.append(told(self.found(model, self.real.validation), VALIDATION + whose))
        return together(*found)

    def found(self, model: nn.Module, examples: tuple[Tensor, Tensor]) -> Found:
        """What a model comes to on some examples and their targets."""
        return found_at(self.config, model, self.real, examples)

"""The interface between a method and the round loop: hooks with defaults, and building blocks for them.

Four hooks say what is special: `plan` (its stages), `instruct` (what a client is sent), `absorb` (what its reply does) and
`finish` (what the server does when all have replied).
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from functools import cached_property, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
from flwr.app import MessageType

from fedwarm.aggregators import Aggregator, Robust, aggregator, needs
from fedwarm.catalogue import parse
from fedwarm.codecs import codec_for
from fedwarm.core.arrays import Arrays, from_module, from_tensors
from fedwarm.core.norms import floats
from fedwarm.core.payload import Payload
from fedwarm.core.seeds import numpy_generator
from fedwarm.core.stages import Stage
from fedwarm.data.settings import Data
from fedwarm.data.shards import central_tests
from fedwarm.data.testing import CENTRAL
from fedwarm.measures._final import global_model
from fedwarm.methods import refuse
from fedwarm.models import Model, build_model
from fedwarm.objectives import objective_of
from fedwarm.privacy.levels import Level
from fedwarm.record.folder import RunFolder
from fedwarm.record.ledger import EVALUATE, Ledger
from fedwarm.record.measure import Measure
from fedwarm.record.record import Record
from fedwarm.relevance import Run
from fedwarm.rounds.central import check_measured
from fedwarm.rounds.chosen import able, parts_of
from fedwarm.rounds.fits import refuse_unfit
from fedwarm.rounds.fixed import Fixed
from fedwarm.rounds.fleet import Fleet
from fedwarm.rounds.gate import VALIDATION, level_of, refuse_uncovered
from fedwarm.rounds.measuring import check_found, check_metrics, measured, measuring
from fedwarm.rounds.objectives import learned_template
from fedwarm.rounds.staged import Staged
from fedwarm.settings.config import Config
from fedwarm.settings.fields import Value
from fedwarm.tasks import task_of
from fedwarm.training.evaluate import Found

M = TypeVar("M", bound="Method")
P = ParamSpec("P")
R = TypeVar("R")


def alone(start: Callable[Concatenate[M, P], R]) -> Callable[Concatenate[M, P], R]:
    """A method's start while no other process is in its run folder, where it has one."""

    @wraps(start)
    def guarded(self: M, /, *given: P.args, **named: P.kwargs) -> R:
        with nullcontext() if self.folder is None else self.folder.lock.held():
            return start(self, *given, **named)

    return guarded


class Method(Staged):
    """A method's own part of a strategy.

    Args:
        config: the settings of the run, or None for the defaults.
        folder: where the run is recorded; None: nothing is written.
        settings: single settings by their key with underscores, e.g. `num_server_rounds=3` (with dots as double underscores).
    """

    method = "fedavg"
    sends_all = False  # whether tensors that nobody trains travel like the others, round after round

    def __init__(self, config: Config | None = None, folder: RunFolder | None = None, **settings: Value) -> None:
        given = {name.replace("__", ".").replace("_", "-"): value for name, value in settings.items()}
        flat = {"method": self.method} if config is None else config.flat()
        self.config = config if config is not None and not given else parse({**flat, **given})
        check_measured(self.config)
        refuse(self.config)
        refuse_unfit(self.config)
        check_metrics(self.config)
        refuse_uncovered(self.config)
        self.folder, self.wire_codec = folder, codec_for(self.config)
        self.halves = {name: part.server(self.config) for name, part in parts_of(self.config).items()}
        self.record = Record(self.config, Ledger())
        self.arrays: Arrays = {}
        self.fixed = Fixed(self.config.of(Model))
        self.fleet = Fleet((), (), 0)
        self.key, self.done = secrets.token_hex(8), 0
        self.norms: dict[str, list[float]] = {}

    # What a method says of itself

    def plan(self) -> Iterator[Stage]:
        """Stages of the run in order; a function of settings, clients and measurements, so that a resumed run repeats it."""
        for number in range(1, self.config.run.num_server_rounds + 1):
            yield Stage(number, "round", MessageType.TRAIN, self.sampled(number))
            yield self.evaluation(number)
            if self.enough(number):
                return

    def instruct(self, stage: Stage, client: int) -> Payload:
        """The message to a client."""
        return Payload("weights", self.arrays, {"round": stage.round})

    def expected(self, stage: Stage) -> Arrays:
        """Arrays with the names, shapes and dtypes that a reply must have; its update is the difference to their values."""
        if stage.name != "round":
            return {}
        begun = stage.round >= objective_of(self.config).begins(self.config)
        return {**self.learned, **self.arrays} if begun else self.arrays

    def expected_of(self, stage: Stage, client: int, payload: Payload, expected: Arrays) -> Arrays:
        """The part of a stage's expected arrays that this client's reply must hold; all of them unless clients differ.

        Raises:
            ValueError: it cannot be this client's reply.
        """
        return expected

    def reference(self, stage: Stage, client: int) -> Arrays:
        """Arrays that client and server both know before the reply; a codec encodes the difference to them."""
        return self.expected(stage)

    def numbers(self, expected: Arrays) -> int:
        """Number of values that the arrays of a reply represent."""
        return sum(expected[name].size for name in floats(expected))

    def sends(self) -> dict[str, int]:
        """Largest number of uploads of one client in a run, by name of the stage; every round where clients come and go."""
        rounds = range(1, self.config.run.num_server_rounds + 1)
        if not self.fleet.steady:
            return {"round": len(rounds)}
        return {"round": int(np.bincount(np.concatenate([self.sampled(n) for n in rounds])).max())}

    def check(self, stage: Stage, payload: Payload) -> None:
        """Validate a reply before it is absorbed.

        Raises:
            PayloadError: why.
        """
        if stage.measures >= 0:
            check_found(self.config, payload, self.width)
        if stage.asked == "round" and not self.hidden:
            payload.count("num-examples", 1)

    def begin(self, stage: Stage) -> None:
        """Called before the replies of a stage are absorbed."""

    def absorb(self, stage: Stage, client: int, payload: Payload) -> None:
        """Take in one valid reply; called in the order of the partitions."""

    def finish(self, stage: Stage) -> None:
        """Called when all replies of a stage are absorbed."""

    def close(self) -> None:
        """Called when all stages are done."""

    def privacy(self) -> dict[str, Any] | None:
        """The privacy statement so far; None without an account."""
        return self.wire_codec.statement()

    def statement(self) -> dict[str, Any] | None:
        """The whole privacy statement: of the method, the codec and the clients' private training."""
        told, example = self.privacy(), self.record.ledger.epsilon()
        if self.hidden and told is not None:
            example = max((part.promised() for part in self.halves.values()), default=0.0)
        if not example:
            return told
        level = next(filter(None, (part.statement(example) for part in self.halves.values())), None)
        if level is None:
            return told
        return level if told is None else {**told, "example_level": level}

    @cached_property
    def hidden(self) -> bool:
        """Whether clients keep their number of images secret."""
        return level_of(Run.of(self.config)) == Level.CLIENT

    def before(self) -> Iterator[Stage]:
        """Stages before training, from the run's parts."""
        for part in self.halves.values():
            yield from part.before(self.everyone)

    def after(self) -> Iterator[Stage]:
        """Stages after training, from the run's parts, which get the model where there is one for all clients."""
        arrays = self.fixed.whole(self.arrays) if Run.of(self.config).shares else {}
        for part in self.halves.values():
            yield from part.after(self.everyone, max(0, self.record.newest()), arrays)

    # Blocks that methods use

    @property
    def everyone(self) -> tuple[int, ...]:
        """Partitions that are connected now; all of them in simulation."""
        return self.fleet.here

    @property
    def partitions(self) -> range:
        """All partitions, connected or not."""
        return range(len(self.fleet.members))

    def evaluation(self, number: int) -> Stage:
        """The stage that measures a round's global model: at all clients, or at the server by the setting `data.test`."""
        if self.config.of(Data).test == CENTRAL and not self.config.of(Data).validation_fraction:
            return Stage(number, EVALUATE, measures=number)
        return Stage(number, EVALUATE, MessageType.EVALUATE, self.everyone, number)

    @property
    def width(self) -> int:
        """Outputs of the model's head."""
        return task_of(self.config.run).width(len(self.fleet.classes))

    def measure(self, number: int, replies: Mapping[int, Payload]) -> Measure:
        """What a stage's replies, and the server where it keeps the test split, found of a round's models."""
        clients, central = len(self.fleet.members), self.central()
        right = None if central is None or central.right is None else (central.right, central.examples)
        found = Measure.of(number, clients, replies, right)
        metrics, back = (
            measured(self.config, self.width, replies, clients, at_server, before)
            for at_server, before in ((central, ""), (None, VALIDATION))
        )
        return found.with_metrics(metrics, back)

    def central(self) -> Found | None:
        """What the global model comes to on the test split that the server keeps; None where it keeps none."""
        data, seed, clients = self.config.of(Data), self.config.run.seed, len(self.fleet.members)
        if data.test != CENTRAL or not self.arrays:
            return None
        model = global_model(self.config, self.width, self.fleet.form, self.fixed.whole(self.arrays))
        return measuring(self.config, self.width).rows(self.predicting(model), *central_tests(data, seed, clients))

    def predicting(self, model: Any) -> Any:
        """The module that the server measures, where predictions are not the model's outputs alone."""
        return model

    def sampled(self, number: int) -> tuple[int, ...]:
        """The cohort of a round: a seeded sample of the connected partitions that can train, in ascending order."""
        trainable = able(self.halves, self.everyone)
        size = max(1, round(self.config.run.fraction_train * len(trainable)))
        if size == len(trainable):
            return trainable
        chosen = numpy_generator(self.config.run.seed, "cohort", number).choice(len(trainable), size, replace=False)
        return tuple(trainable[int(i)] for i in np.sort(chosen))

    def initial_arrays(self) -> Arrays:
        """The shared initial weights; what an objective learns beside them joins in the first round."""
        return from_module(self.new_model())

    def aggregator(self) -> Aggregator:
        """A new aggregator of a round's models: the mean, or the robust rule of the settings."""
        return aggregator(self.config.of(Robust), self.arrays)

    @property
    def fewest(self) -> int:  # replies that a round can do with, whatever `min-replies` allows
        return needs(self.config.of(Robust)) if Run.of(self.config).averages else 1

    def enough(self, number: int) -> bool:
        """Whether training stops after this round, by the settings `target` and `patience`."""
        if why := self.record.enough(number):
            self.record.remark(f"stopped after round {number}: {why}")
        return bool(why)

    @cached_property
    def learned(self) -> Arrays:
        """Names and shapes of the arrays that clients learn beside the weights."""
        return from_tensors(learned_template(self.config, self.new_model(), self.fleet.form)) if self.arrays else {}

    def new_model(self) -> Any:
        """The model with its shared initial weights."""
        model = build_model(self.config.of(Model), self.width, self.fleet.form, self.config.run.seed, say=self.record.remark)
        return self.fixed.seen(model)

    # What a checkpoint holds

    def state(self) -> dict[str, Arrays]:
        """The method's own arrays for the checkpoint, by part; never changed in place: unchanged ones are not written again."""
        return {"model": self.arrays}

    def facts(self) -> dict[str, Any]:
        """The method's other state for the checkpoint, as JSON."""
        return {}

    def restore(self, parts: Mapping[str, Arrays], facts: Mapping[str, Any]) -> None:
        """Restore what `state` and `facts` returned."""
        self.arrays = dict(parts["model"])

    def summary(self) -> None:
        """Log what is special about this run."""
        run = self.config.run
        rounds = "1 round" if run.num_server_rounds == 1 else f"{run.num_server_rounds} rounds"
        logging.getLogger("flwr").info("%s: %s, seed %d", type(self).__name__, rounds, run.seed)

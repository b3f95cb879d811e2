"""The round loop of every method: selection, failures, evaluation, costs and records live here, once.

A method says what is special to it by four hooks: `plan` (its stages), `instruct` (what a client is sent), `absorb` (what its
reply does) and `finish` (what the server does when all have replied).
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fedwarm.arrays import Arrays, from_module
from fedwarm.config import Config, Value, parse
from fedwarm.ledger import EVALUATE, Ledger
from fedwarm.models import build_model
from fedwarm.progress import tick
from fedwarm.robust import Aggregator, Robust, aggregator, floats, reference_norm, too_large, update_norm
from fedwarm.run.checkpoint import Checkpoint
from fedwarm.run.folder import RunFolder
from fedwarm.run.record import Measure, Record, versions
from fedwarm.run.trackers import tracker
from fedwarm.seeds import numpy_generator
from fedwarm.wire import Payload, PayloadError, to_records

from .exchange import Exchange, Stage
from .fleet import FederationError, Fleet, Member, meet

NORMS_KEPT = 64


class BaseStrategy(Strategy):
    """A Flower strategy; `start(grid)` runs it whole.

    Args:
        config: the settings of the run, or None for the defaults.
        folder: where the run is recorded; None: nothing is written.
        settings: single settings by their key with underscores, e.g. `num_server_rounds=3` (with dots as double underscores).
    """

    method = "fedavg"

    def __init__(self, config: Config | None = None, folder: RunFolder | None = None, **settings: Value) -> None:
        flat = config.flat() if config is not None else {"method": self.method}
        given = {name.replace("__", ".").replace("_", "-"): value for name, value in settings.items()}
        self.config = parse({**flat, **given})
        self.folder = folder
        self.record = Record(self.config, Ledger())
        self.arrays: Arrays = {}
        self.fleet = Fleet((), (), 0)
        self.key, self.done = secrets.token_hex(8), 0
        self.norms: dict[str, list[float]] = {}

    # What a method says of itself

    def plan(self) -> Iterator[Stage]:
        """The stages in order, as settings, fleet and measurements have it: a resumed run goes through them again."""
        for number in range(1, self.config.run.num_server_rounds + 1):
            yield Stage(number, "round", MessageType.TRAIN, self.sampled(number))
            yield Stage(number, EVALUATE, MessageType.EVALUATE, self.everyone, number)
            if self.enough(number):
                return

    def instruct(self, stage: Stage, client: int) -> Payload:
        """What a client is sent."""
        return Payload("weights", self.arrays, {"round": stage.round})

    def expected(self, stage: Stage) -> Arrays:
        """Names, shapes and dtypes that a reply's arrays must have; its update is measured from these values."""
        return self.arrays if stage.name == "round" else {}

    def check(self, stage: Stage, payload: Payload) -> None:
        """Refuse a reply that cannot be used, before it is absorbed.

        Raises:
            PayloadError: why.
        """
        if stage.measures >= 0:
            tests = payload.count("num-test", 1)
            for name in ("correct-global", "correct-personal"):
                if name in payload.metrics:
                    payload.count(name, 0, tests)
        if stage.message_type == MessageType.TRAIN:
            payload.count("num-examples", 1)

    def begin(self, stage: Stage) -> None:
        """Before the replies of a stage are absorbed."""

    def absorb(self, stage: Stage, client: int, payload: Payload) -> None:
        """What one valid reply does; called in the order of the partitions."""

    def finish(self, stage: Stage) -> None:
        """What the server does when a stage's replies are in."""

    def close(self) -> None:
        """What the server does when all stages are done."""

    def privacy(self) -> dict[str, Any] | None:
        """What is said of privacy so far; None where nothing is accounted for."""
        return None

    # Blocks that methods use

    @property
    def everyone(self) -> tuple[int, ...]:
        """All partitions."""
        return tuple(m.partition for m in self.fleet.members)

    def sampled(self, number: int) -> tuple[int, ...]:
        """The cohort of a round: a seeded share of the partitions, ascending."""
        n = len(self.fleet.members)
        size = max(1, round(self.config.run.fraction_train * n))
        if size == n:
            return self.everyone
        chosen = numpy_generator(self.config.run.seed, "cohort", number).choice(n, size, replace=False)
        return tuple(int(i) for i in np.sort(chosen))

    def initial_arrays(self) -> Arrays:
        """The shared initialisation of the classifier."""
        return from_module(self.new_model())

    def aggregator(self) -> Aggregator:
        """What makes one model of a round's: the mean, or a robust rule by setting."""
        return aggregator(self.config.of(Robust), self.arrays)

    def enough(self, number: int) -> bool:
        """Whether training stops after this round, by the settings `target` and `patience`."""
        why = self.record.enough(number)
        note = f"stopped after round {number}: {why}"
        if why and note not in self.record.notes:
            self.record.note(note)
        return bool(why)

    def new_model(self) -> Any:
        """The classifier with its shared initialisation."""
        return build_model(self.config.model, len(self.fleet.classes), self.fleet.image_size, self.config.run.seed)

    # What a checkpoint holds

    def state(self) -> dict[str, Arrays]:
        """The method's own arrays, by part; they are not changed in place, and those that stay the same are not written again."""
        return {"model": self.arrays}

    def facts(self) -> dict[str, Any]:
        """What else the method must know to go on, as JSON."""
        return {}

    def restore(self, parts: Mapping[str, Arrays], facts: Mapping[str, Any]) -> None:
        """Take up what `state` and `facts` gave."""
        self.arrays = dict(parts["model"])

    # The loop

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord | None = None,
        num_rounds: int | None = None,
        timeout: float | None = None,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Any = None,
    ) -> Result:
        """Run all stages, or those that are left; Flower's signature, whose defaults come from the settings.

        Raises:
            FederationError: too few valid replies twice in a row, or clients that do not fit together.
            SettingError: the run is to be resumed and cannot be.
        """
        given: dict[str, Value] = {} if num_rounds is None else {"num-server-rounds": num_rounds}
        if timeout is not None:
            given["stage-timeout"] = float(timeout)
        self.config = parse({**self.config.flat(), **given})
        run = self.config.run
        before = self.folder.resume(self.record) if run.resume and self.folder is not None else None
        if before is not None:
            before.refuse_unlike(self.config.flat(), self.folder.path)  # type: ignore[union-attr]
        self.fleet = meet(grid, run.stage_timeout)
        self.record.open(self.config, self.fleet.classes, [m.counts for m in self.fleet.members])
        self._begin(before, initial_arrays)
        self.record.parameters = sum(self.arrays[name].size for name in floats(self.arrays))
        exchange = Exchange(grid, self.fleet, self.record.ledger, self.key, run.stage_timeout, run.min_replies)
        place = None if self.folder is None else self.folder.path
        with closing(tracker(run.tracker, place, self.config.flat(), self.record.newest())) as told:
            for index, stage in enumerate(self.plan()):
                if index >= self.done:
                    self._run_stage(stage, index, exchange)
                    if stage.measures >= 0:
                        told.log(stage.measures, self.record.summary(stage.measures))
        self.close()
        self.record.close()
        if self.folder is not None:
            self.folder.finish(self.record, self.arrays)
            self._keep()
        return self._result()

    def _begin(self, before: Checkpoint | None, initial_arrays: ArrayRecord | None) -> None:
        if before is not None:
            if before.clients != len(self.fleet.members):
                here = len(self.fleet.members)
                raise FederationError(f"the run had {before.clients} clients and {here} are here; resume it with as many")
            self.key, self.done, self.norms = before.key, before.done, before.facts["norms"]
            self.restore(before.parts, before.facts["method"])
            if before.versions != versions():
                self.record.note(f"resumed after stage {before.done} with other versions of packages")
            return
        self.arrays = {n: a.numpy() for n, a in initial_arrays.items()} if initial_arrays else self.initial_arrays()
        if self.folder is not None:
            self.folder.write(self.record)
            self._keep()

    def _run_stage(self, stage: Stage, index: int, exchange: Exchange) -> None:
        begun, expected = time.monotonic(), self.expected(stage)
        lengths: list[float] = []
        self.begin(stage)

        def accept(client: int, payload: Payload) -> None:
            self.check(stage, payload)
            lengths.append(self._check_size(stage, payload.arrays, expected))
            self.absorb(stage, client, payload)

        replies = exchange.run(stage, index, lambda c: self.instruct(stage, c), expected, accept) if stage.clients else {}
        if stage.measures >= 0:
            self.record.measure(Measure.of(stage.measures, len(self.fleet.members), replies))
            best = self.record.best()
            if self.folder is not None and best is not None and best[0] == stage.measures:
                self.folder.save_best(self.arrays)
        losses = [p.metrics["train-loss"] for p in replies.values() if "train-loss" in p.metrics]
        self.finish(stage)
        self.record.spend(stage.round, self.privacy())
        self.norms[stage.name] = [*self.norms.get(stage.name, []), *lengths][-NORMS_KEPT:]
        self.record.stage(stage.round, stage.name, time.monotonic() - begun, losses)
        self.done = index + 1
        if self.folder is not None:
            self._keep()
            self.folder.write(self.record)
        tick("rounds", stage.round, max(1, self.config.run.num_server_rounds), self.record.headline())

    def _check_size(self, stage: Stage, arrays: Arrays, expected: Arrays) -> float:
        """The norm of a reply's update; one that is far longer than the model and those of earlier rounds is refused."""
        if not arrays:
            return 0.0
        limit, length = self.config.of(Robust).limit, update_norm(arrays, expected)
        if too_large(length, reference_norm(expected), self.norms.get(stage.name, []), limit):
            raise PayloadError(f"its update has norm {length:.3g}, which robust.limit = {limit:g} refuses")
        return length

    def _keep(self) -> None:
        """Write a checkpoint."""
        assert self.folder is not None
        record = self.record
        lengths = self.folder.append(record)
        self.folder.keep(
            Checkpoint(
                self.done, record.complete, self.key, len(self.fleet.members), round(record.seconds, 3), self.config.flat(),
                versions(), lengths, {"method": self.facts(), "norms": self.norms}, self.state(),
            )
        )  # fmt: skip

    def _result(self) -> Result:
        result = Result()
        result.arrays = to_records(Payload("weights", self.arrays)).array_records["arrays"]
        for number, accuracy in self.record.accuracies().items():
            result.evaluate_metrics_clientapp[number] = MetricRecord({"accuracy": accuracy})
        return result

    # Flower's five hooks, for those who drive a strategy round by round

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Iterable[Message]:
        """Not used: stages are planned by `plan` and sent by `start`."""
        raise NotImplementedError("fedwarm's strategies run by start(grid); their stages are not single rounds")

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Not used: see `absorb` and `finish`."""
        raise NotImplementedError("fedwarm's strategies run by start(grid)")

    def configure_evaluate(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Iterable[Message]:
        """Not used: evaluation is a stage."""
        raise NotImplementedError("fedwarm's strategies run by start(grid)")

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Not used: evaluation is a stage."""
        raise NotImplementedError("fedwarm's strategies run by start(grid)")

    def summary(self) -> None:
        """Log what is special about this run."""
        run = self.config.run
        logging.getLogger("flwr").info("%s: %d rounds, seed %d", type(self).__name__, run.num_server_rounds, run.seed)


__all__ = ["BaseStrategy", "FederationError", "Member", "Stage"]

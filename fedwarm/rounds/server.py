"""The round loop of every method: selection, failures, evaluation, costs and records live here, once.

What is special to a method stands in its hooks (see `method.Method`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import chain, count
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result

from fedwarm.aggregators import Robust
from fedwarm.codecs import Upload
from fedwarm.core.arrays import Arrays
from fedwarm.core.nodes import Patience
from fedwarm.core.norms import floats
from fedwarm.core.payload import Payload, check_arrays
from fedwarm.core.progress import tick
from fedwarm.core.stages import Place, Stage
from fedwarm.flower.wire import to_records
from fedwarm.record.checkpoint import Checkpoint
from fedwarm.record.document import summary
from fedwarm.record.trackers import tracker
from fedwarm.record.versions import versions
from fedwarm.rounds import cohorts, measuring, own_data
from fedwarm.rounds.artefacts import header, refuse_seen_tests, trained_on
from fedwarm.rounds.exchange import Exchange
from fedwarm.rounds.extend import changed
from fedwarm.rounds.fixed import FIXED
from fedwarm.rounds.fleet import FederationError, Member
from fedwarm.rounds.foundation_words import remark
from fedwarm.rounds.lengths import checked_length
from fedwarm.rounds.method import Method, alone
from fedwarm.rounds.odd import of_fleet
from fedwarm.rounds.outline import Outlook
from fedwarm.rounds.register import remembered
from fedwarm.rounds.remarks import remarks, unmeasured
from fedwarm.rounds.rollcall import attend
from fedwarm.settings.fields import Value

NORMS_KEPT = 64


class BaseStrategy(Method):
    """A Flower strategy; `start(grid)` runs it whole (see `Method` for the arguments)."""

    # The loop

    @alone
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
            FederationError: too few valid replies, though who failed was asked once more, or clients that do not fit together.
            SettingError: the run is to be resumed and cannot be, or cannot start with these arrays.
        """
        given: dict[str, Value] = {} if num_rounds is None else {"num-server-rounds": num_rounds}
        if timeout is not None:
            given["stage-timeout"] = float(timeout)
        self.config = self.config.changed(given)
        run = self.config.run
        self.record.config = self.config
        before = self.folder.resume(self.record, changed) if run.resume and self.folder is not None else None
        self.attendance = attend(grid, self.config, None if before is None else before.facts)
        self.record.cohort = getattr(grid, "cohort", 0)
        self._meet()
        self._trace(before is None)
        self._begin(before, initial_arrays)
        for text in of_fleet(self.config, self.fleet.members):
            self.record.remark(text)
        whole = self.fixed.whole(self.arrays)
        self.record.parameters = sum(whole[name].size for name in floats(whole))
        self._open_codec()
        exchange = Exchange(grid, self.attendance, self.record.ledger, self.key, Patience.of(run, self.attendance.real))
        exchange.pieces = None if self.folder is None else self.folder.pieces
        exchange.told = own_data.told(self.config, self.fleet)
        place = None if self.folder is None else self.folder.path
        with closing(tracker(run.tracker, place, self.config.flat(), self.record.newest())) as told, Outlook(self) as ahead:
            for index, stage in ahead.of(self._stages()):
                if index >= self.done:
                    self.run_stage(stage, index, exchange)
                    if stage.measures >= 0:
                        told.log(stage.measures, summary(self.record, stage.measures))
        self.close()
        self.record.close()
        if self.folder is not None:
            self.folder.finish(self.record, self.fixed.whole(self.arrays))
            self._keep()
        return self._result()

    def _trace(self, fresh: bool) -> None:
        """Say what this run's models are trained on, and see that nothing which it starts from knows its test images."""
        clients = len(self.fleet.members)
        if fresh:
            refuse_seen_tests(self.config, clients)
        found = trained_on(self.config, clients)
        self.record.trained_on = [source.told() for source in found]
        if self.folder is not None:
            self.folder.header = header(found)

    def _stages(self) -> Iterator[Stage]:
        """All stages; before each that is left it is looked up who is there."""
        stages = chain.from_iterable((self.before(), self.plan(), self.after()))
        for index in count():
            if index >= self.done:
                self.attendance.look()
                self._meet()
            if (stage := next(stages, None)) is None:
                return
            yield stage

    def _meet(self) -> None:
        """Take up who is there now."""
        if self.fleet is not self.attendance.fleet:
            self.fleet = self.attendance.fleet
            self.record.inputs = self.fleet.form
            members, held = self.fleet.members, own_data.held(self.config, self.fleet)
            self.record.open(self.config, self.fleet.classes, [m.counts for m in members], [m.name for m in members], held)
        for text in (*self.attendance.remarks, *self._late()):
            self.record.remark(text)

    def _late(self) -> Iterator[str]:
        here = {client: self.fleet.members[client].label for client in self.fleet.here}
        for part in self.halves.values():
            yield from part.late(here)

    def _open_codec(self) -> None:
        _ = self.learned  # settings that do not go together are refused before anything is sent
        if self.wire_codec.codes:
            last = self.config.run.num_server_rounds
            sizes = {name: Upload(self.expected(Stage(last, name)), times) for name, times in self.sends().items()}
            self.wire_codec.open(sizes, len(self.fleet.members), len(self.sampled(1)))

    def _begin(self, before: Checkpoint | None, initial_arrays: ArrayRecord | None) -> None:
        if before is not None:
            if before.clients != len(self.fleet.members):
                here = len(self.fleet.members)
                raise FederationError(f"the run had {before.clients} clients and {here} are here; resume it with as many")
            self.key, self.done, self.norms = before.key, before.done, before.facts["norms"]
            self.restore(before.parts, before.facts["method"])
            self.fixed.restore(before.parts.get(FIXED, {}), before.facts.get(FIXED, {}))
            for name, part in self.halves.items():
                part.restore(before.facts.get(name, {}))
            self.wire_codec.restore(before.facts["codec"])
            if before.versions != versions():
                self.record.note(f"resumed after stage {before.done} with other versions of packages")
            if self.record.events and self.folder is not None:
                self._keep(told=True)  # a longer run is complete no more, wherever it ends
            return
        notes = (*own_data.notes(self.config, self.fleet), remark(self.config, self.fleet.classes), measuring.remark(self.config))
        for told in filter(None, (*notes, cohorts.remark(self.config, self.record.cohort, self.new_model))):
            self.record.note(told)
        self.arrays = self.fixed.start(self.config, initial_arrays or {}, self.initial_arrays())
        if self.arrays and not self.sends_all:
            self.arrays = self.fixed.part(self.arrays, self.new_model)
        if self.folder is not None:
            self.folder.write(self.record)
            self._keep()

    def run_stage(self, stage: Stage, index: int, exchange: Exchange) -> None:
        """Run one stage: ask its clients, take their replies, finish it, and write down what came of it."""
        begun, part = time.monotonic(), self.halves.get(stage.owner)
        expected: Arrays = self.expected(stage) if part is None else {}
        lengths: list[float] = []
        booked = self.accounts()
        if part is None:
            self.begin(stage)
        coded = self._book(stage, expected)
        if self.accounts() != booked:
            self._settle(stage)

        def accept(client: int, payload: Payload) -> None:
            own = self.expected_of(stage, client, payload, expected)
            check_arrays(payload.arrays, own if coded is expected else self.wire_codec.expected(own))
            if coded is not expected:
                payload = self.wire_codec.decode(payload, self.reference(stage, client), self._place(stage, client))
            self.fixed.heard(client)
            if part is not None:
                return part.absorb(stage, client, payload, len(self.fleet.classes))
            self.check(stage, payload)
            lengths.append(self._check_size(stage, payload.arrays, own))
            self.absorb(stage, client, payload)

        least = self.fewest if part is None and stage.name == "round" else 1
        exchange = replace(exchange, patience=exchange.patience.needing(least, stage.all))
        with self._told(stage):
            replies = exchange.run(stage, index, lambda c: self._instructed(stage, c), coded, accept) if stage.clients else {}
        for text in (*remarks(replies, self.record.notes), *unmeasured(stage, replies)):
            self.record.note(text)
        if part is not None:
            part.finish(stage, replies, [member.counts for member in self.fleet.members], self.record)
        if stage.measures >= 0:
            self.record.measure(self.measure(stage.measures, replies))
            best = self.record.best()
            if self.folder is not None and best is not None and best[0] == stage.measures:
                self.folder.save_best(self.fixed.whole(self.arrays))
        losses = [p.metrics["train-loss"] for p in replies.values() if "train-loss" in p.metrics]
        if part is None:
            self.finish(stage)
        self.record.spend(stage.round, self.statement())
        self.norms[stage.name] = [*self.norms.get(stage.name, []), *lengths][-NORMS_KEPT:]
        self.record.stage(stage.round, stage.name, time.monotonic() - begun, losses)
        self.done = index + 1
        if self.folder is not None:
            self._keep()
            self.folder.write(self.record)
        tick("rounds", stage.round, max(1, self.config.run.num_server_rounds), self.record.headline())

    def _book(self, stage: Stage, expected: Arrays) -> Arrays:
        """Account for what a stage's replies release; names, shapes and dtypes of the arrays that they hold."""
        if not expected:
            return expected
        self.record.upload(stage.name, self.numbers(expected))
        if not self.wire_codec.codes:
            return expected
        self.wire_codec.book(stage.name, stage.clients, stage.round)
        for text in self.wire_codec.notes():
            self.record.remark(text)
        return self.wire_codec.expected(expected)

    def accounts(self) -> dict[str, Any]:
        """The accounts of privacy as they stand, as JSON; empty where there is none."""
        return {} if self.privacy() is None else {"method": self.facts(), "codec": self.wire_codec.facts()}

    def _settle(self, stage: Stage) -> None:
        """Write down what was booked for a stage, before its first message leaves: a run that breaks in it has spent that."""
        self.record.spend(stage.round, self.statement())
        if self.folder is not None:
            self._keep(told=True)

    @contextmanager
    def _told(self, stage: Stage) -> Iterator[None]:
        """Where a stage breaks, write down what was reached and spent by then, what clients told of it included."""
        try:
            yield
        except BaseException:
            self.record.spend(stage.round, self.statement())
            if self.folder is not None:
                self.folder.leave(self.record)
            raise

    def _place(self, stage: Stage, client: int) -> Place:
        return Place(self.config.run.seed, stage.asked, stage.round, client)

    def _instructed(self, stage: Stage, client: int) -> Payload:
        if stage.owner:
            return self.fixed.told(client, self.halves[stage.owner].instruct(stage, client, self.arrays))
        payload = self.fixed.told(client, self.instruct(stage, client))
        return replace(payload, metrics={**payload.metrics, **self.wire_codec.told()})

    def _check_size(self, stage: Stage, arrays: Arrays, expected: Arrays) -> float:
        """The norm of a reply's update; one that is far longer than the model and those of earlier rounds is refused."""
        if not arrays or self.wire_codec.private:
            return 0.0
        before, limit = self.norms.get(stage.name, []), self.config.of(Robust).limit
        return checked_length(arrays, expected, self.arrays, before, limit)

    def _keep(self, told: bool = False) -> None:
        """Write a checkpoint, and what the run has come to where that must be told at once."""
        assert self.folder is not None
        record = self.record
        lengths, halves = self.folder.append(record), {name: half.facts() for name, half in self.halves.items()}
        self.folder.keep(
            Checkpoint(
                self.done, record.complete, self.key, len(self.fleet.members), round(record.seconds, 3), self.config.flat(),
                versions(), lengths, {"method": self.facts(), "norms": self.norms, "codec": self.wire_codec.facts(),
                 **({FIXED: found} if (found := self.fixed.facts()) else {}),
                 **halves, **remembered(self.fleet, self.attendance.bindings()),
                 **own_data.kept(self.config, self.fleet)},
                {**self.state(), **({FIXED: self.fixed.arrays} if self.fixed.arrays else {})},
            )
        )  # fmt: skip
        if told:
            self.folder.write(record, now=True)

    def _result(self) -> Result:
        (result := Result()).arrays = to_records(Payload("weights", self.fixed.whole(self.arrays))).array_records["arrays"]
        for number, accuracy in self.record.accuracies().items():
            result.evaluate_metrics_clientapp[number] = MetricRecord({"accuracy": accuracy})
        return result


__all__ = ["BaseStrategy", "FederationError", "Member", "Stage"]

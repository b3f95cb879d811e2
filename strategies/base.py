"""The round loop of every method: selection, failures, evaluation, costs and records live here, once.

A method says what is special to it by four hooks: `plan` (its stages), `instruct` (what a client is sent), `absorb` (what its
reply does) and `finish` (what the server does when all have replied).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fedwarm.arrays import Arrays, from_module
from fedwarm.config import Config, Value, parse
from fedwarm.ledger import EVALUATE, Entry, Ledger
from fedwarm.models import build_model
from fedwarm.progress import tick
from fedwarm.run.record import Measure, Record, RunFolder
from fedwarm.seeds import numpy_generator
from fedwarm.wire import Encoded, Payload, PayloadError, Size, from_records, size_of, to_records

from .fleet import FederationError, Fleet, Member, meet

ATTEMPTS = 2


@dataclass(frozen=True)
class Stage:
    """One exchange with some clients.

    Attributes:
        round: the round it is booked under.
        name: how the ledger and the display call it.
        message_type: Flower's, e.g. `train` or `train.adapt`.
        clients: partitions, ascending.
        measures: the round whose model the replies measure; -1: none.
    """

    round: int
    name: str
    message_type: str
    clients: tuple[int, ...]
    measures: int = -1


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
        self.ledger = Ledger()
        self.record = Record(self.config, self.ledger)
        self.arrays: Arrays = {}
        self.fleet = Fleet((), (), 0)

    # What a method says of itself

    def plan(self) -> Iterator[Stage]:
        """The stages in order; called once all clients are known."""
        for number in range(1, self.config.run.num_server_rounds + 1):
            yield Stage(number, "round", MessageType.TRAIN, self.sampled(number))
            yield Stage(number, EVALUATE, MessageType.EVALUATE, self.everyone, number)

    def instruct(self, stage: Stage, client: int) -> Payload:
        """What a client is sent."""
        return Payload("weights", self.arrays, {"round": stage.round})

    def check(self, stage: Stage, payload: Payload) -> None:
        """Refuse a reply that cannot be used, before any reply is absorbed.

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

    def new_model(self) -> Any:
        """The classifier with its shared initialisation."""
        return build_model(self.config.model, len(self.fleet.classes), self.fleet.image_size, self.config.run.seed)

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
        """Run all stages; Flower's signature, whose defaults come from the settings.

        Raises:
            FederationError: too few valid replies twice in a row, or clients that do not fit together.
        """
        given: dict[str, Value] = {}
        if num_rounds is not None:
            given["num-server-rounds"] = num_rounds
        if timeout is not None:
            given["stage-timeout"] = float(timeout)
        self.config = parse({**self.config.flat(), **given})
        self.fleet = meet(grid, self.config.run.stage_timeout)
        self.record.open(self.config, self.fleet.classes, [m.counts for m in self.fleet.members])
        self.arrays = {n: a.numpy() for n, a in initial_arrays.items()} if initial_arrays else self.initial_arrays()
        if self.folder is not None:
            self.folder.write(self.record)
        for stage in self.plan():
            self._run_stage(stage, grid)
        self.close()
        self.record.close(self.arrays)
        if self.folder is not None:
            self.folder.finish(self.record, self.arrays)
        return self._result()

    def _run_stage(self, stage: Stage, grid: Grid) -> None:
        begun = time.monotonic()
        replies = self._exchange(stage, grid)
        self.begin(stage)
        for client in sorted(replies):
            self.absorb(stage, client, replies[client])
        if stage.measures >= 0:
            self.record.measure(Measure.of(stage.measures, len(self.fleet.members), replies))
        losses = [p.metrics["train-loss"] for p in replies.values() if "train-loss" in p.metrics]
        self.finish(stage)
        self.record.stage(stage.round, stage.name, time.monotonic() - begun, losses)
        if self.folder is not None:
            self.folder.write(self.record)
        tick("rounds", stage.round, max(1, self.config.run.num_server_rounds), self.record.headline())

    def _exchange(self, stage: Stage, grid: Grid) -> dict[int, Payload]:
        """Valid replies by partition; those that failed are asked once more, then counted out."""
        replies: dict[int, Payload] = {}
        wanted = self.config.run.min_replies or len(stage.clients)
        for attempt in range(ATTEMPTS):
            missing = [c for c in stage.clients if c not in replies]
            if not missing or (attempt and len(replies) >= wanted):
                break
            replies.update(self._ask(stage, missing, grid))
        if len(replies) < min(wanted, len(stage.clients)):
            reasons = "; ".join(self.ledger.failures(stage.round)[-3:])
            raise FederationError(
                f"round {stage.round}, {stage.name}: {len(replies)} valid replies of {len(stage.clients)}, "
                f"{wanted} are needed (min-replies): {reasons}"
            )
        return replies

    def _ask(self, stage: Stage, clients: Sequence[int], grid: Grid) -> dict[int, Payload]:
        messages, down = [], {}
        encoded: Encoded = {}
        for client in clients:
            content = to_records(self.instruct(stage, client), encoded)
            down[client] = size_of(content)
            node = self.fleet.members[client].node
            messages.append(
                Message(content=content, message_type=stage.message_type, dst_node_id=node, group_id=str(stage.round))
            )
        begun = time.monotonic()
        by_node = {self.fleet.members[c].node: c for c in clients}
        valid: dict[int, Payload] = {}
        failures = dict.fromkeys(clients, f"no reply within {self.config.run.stage_timeout:.0f} s")
        sizes: dict[int, Size] = {}
        for reply in grid.send_and_receive(messages, timeout=self.config.run.stage_timeout):
            client = by_node[reply.metadata.src_node_id]
            try:
                sizes[client] = size_of(reply.content) if reply.has_content() else Size()
                valid[client] = self._read(stage, reply)
                failures.pop(client)
            except (PayloadError, ValueError) as error:
                failures[client] = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        seconds = time.monotonic() - begun
        for client in clients:
            up = sizes.get(client, Size())
            sent, why = down[client], failures.get(client, "")
            sizes_both = (sent.payload_bytes, sent.wire_bytes, up.payload_bytes, up.wire_bytes)
            self.ledger.add(Entry(stage.round, stage.name, client, *sizes_both, round(seconds, 3), why))
        return {c: p for c, p in valid.items() if c not in failures}

    def _read(self, stage: Stage, reply: Message) -> Payload:
        if reply.has_error():
            reason = (reply.error.reason or "").strip()
            raise PayloadError(reason.splitlines()[-1] if reason else f"error {reply.error.code}")
        payload = from_records(reply.content)
        self.check(stage, payload)
        return payload

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
        import logging

        run = self.config.run
        logging.getLogger("flwr").info("%s: %d rounds, seed %d", type(self).__name__, run.num_server_rounds, run.seed)


__all__ = ["BaseStrategy", "FederationError", "Member", "Stage"]

"""A strategy of Flower's that runs by stages, and not by Flower's hooks of single rounds."""

from __future__ import annotations

from collections.abc import Iterable

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy


class Staged(Strategy):
    """Says so to whoever drives it round by round."""

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

"""What a run cost: bytes up and down as encoded, and seconds, per client, stage and round."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

EVALUATE = "evaluate"


@dataclass(frozen=True)
class Entry:
    """One exchange with one client; `failure` says why its reply was left out, empty where it counted."""

    round: int
    stage: str
    client: int
    payload_bytes_down: int
    wire_bytes_down: int
    payload_bytes_up: int
    wire_bytes_up: int
    seconds: float
    failure: str = ""


class Ledger:
    """All exchanges of a run, in the order in which they were booked."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self.entries = list(entries)

    def add(self, entry: Entry) -> None:
        self.entries.append(entry)

    def up(self, number: int, clients: int) -> list[int]:
        """Bytes up on the wire in a round, per client; evaluation is booked apart."""
        return self._per_client("wire_bytes_up", number, clients)

    def down(self, number: int, clients: int) -> list[int]:
        """Bytes down on the wire in a round, per client; evaluation is booked apart."""
        return self._per_client("wire_bytes_down", number, clients)

    def evaluation(self, number: int) -> int:
        """Bytes both ways that only measured the model."""
        return sum(e.wire_bytes_up + e.wire_bytes_down for e in self.entries if e.round == number and e.stage == EVALUATE)

    def failures(self, number: int) -> list[str]:
        """One line for each reply of the round that was left out."""
        return [f"client {e.client}, {e.stage}: {e.failure}" for e in self.entries if e.round == number and e.failure]

    def _per_client(self, field: str, number: int, clients: int) -> list[int]:
        totals = [0] * clients
        for entry in self.entries:
            if entry.round == number and entry.stage != EVALUATE:
                totals[entry.client] += getattr(entry, field)
        return totals

    def lines(self) -> str:
        """One JSON object a line."""
        return "".join(json.dumps(vars(e)) + "\n" for e in self.entries)

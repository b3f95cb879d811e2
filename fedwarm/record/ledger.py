"""What a run cost: bytes up and down as encoded, and seconds, per client, stage and round."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from fedwarm.core.refusals import REASONS, reason_of
from fedwarm.settings.kinds import MEASURES

EVALUATE = "evaluate"


@dataclass(frozen=True)
class Entry:
    """One exchange with one client; `failure` says why its reply was left out, empty where it counted.

    `ticket` is the number of the message: stage, attempt and client. `epsilon` is that of an example of this client so far, where
    local training is private. `site` is the client's name, where it has one.
    """

    round: int
    stage: str
    client: int
    payload_bytes_down: int
    wire_bytes_down: int
    payload_bytes_up: int
    wire_bytes_up: int
    seconds: float
    failure: str = ""
    ticket: str = ""
    epsilon: float = 0.0
    site: str = ""

    @property
    def who(self) -> str:
        """The client as errors and pages call it."""
        return called(self.client, self.site)


@lru_cache(maxsize=64)
def of_measure(stage: str) -> bool:
    """Whether a stage is that of a measure, which is taken when training is done."""
    return stage in MEASURES


def measuring(stage: str) -> bool:
    """Whether a stage only measures the model: a round's evaluation, or that of a measure."""
    return stage == EVALUATE or of_measure(stage)


def called(client: int, site: str = "") -> str:
    """How a client is called: by its partition, after its site's name where it has one."""
    return f"{site} ({client})" if site else f"client {client}"


class Ledger:
    """All exchanges of a run, in the order in which they were booked."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self.entries: list[Entry] = []
        self._of_round: dict[int, list[Entry]] = defaultdict(list)
        for entry in entries:
            self.add(entry)

    def add(self, entry: Entry) -> None:
        self.entries.append(entry)
        self._of_round[entry.round].append(entry)

    def up(self, number: int, clients: int) -> list[int]:
        """Bytes up on the wire in a round, per client; evaluation is booked apart."""
        return self._per_client("wire_bytes_up", number, clients)

    def down(self, number: int, clients: int) -> list[int]:
        """Bytes down on the wire in a round, per client; evaluation is booked apart."""
        return self._per_client("wire_bytes_down", number, clients)

    def evaluation(self, number: int) -> int:
        """Bytes both ways that only measured the model."""
        return sum(e.wire_bytes_up + e.wire_bytes_down for e in self._round(number) if measuring(e.stage))

    def failures(self, number: int) -> list[str]:
        """One line for each reply of the round that was left out."""
        return [f"{e.who}, {e.stage}: {e.failure}" for e in self._round(number) if e.failure]

    def refusals(self) -> dict[str, int]:
        """How often clients refused for their own account of privacy or their node's limits, by reason."""
        reasons = Counter(filter(None, (reason_of(e.failure) for e in self.entries)))
        return {reason: reasons[reason] for reason in REASONS if reason in reasons}

    def epsilon(self) -> float:
        """The largest epsilon of an example of any client so far; 0 where none was told."""
        return max((e.epsilon for e in self.entries), default=0.0)

    def _round(self, number: int) -> list[Entry]:
        return self._of_round.get(number, [])

    def _per_client(self, field: str, number: int, clients: int) -> list[int]:
        totals = [0] * clients
        for entry in self._round(number):
            if not measuring(entry.stage):
                totals[entry.client] += getattr(entry, field)
        return totals

    def lines(self, start: int = 0) -> str:
        """One JSON object a line, from entry `start` on."""
        return "".join(json.dumps(_said(e)) + "\n" for e in self.entries[start:])

    @classmethod
    def read(cls, text: str) -> Ledger:
        """The ledger that `lines` wrote.

        Raises:
            ValueError: a line that is no entry.
        """
        try:
            return cls(Entry(**json.loads(line)) for line in text.splitlines())
        except TypeError as error:
            raise ValueError(f"no line of a ledger: {error}") from error


def _said(entry: Entry) -> dict[str, object]:
    """An entry's fields; the site's name only where there is one."""
    return {name: value for name, value in vars(entry).items() if name != "site" or value}

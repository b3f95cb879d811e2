"""Replies of a stage that takes long, kept beside the checkpoint until the stage ends: a resumed run asks only the other clients.

A kept reply goes through the same checks at its place in the order, and its exchanges are booked as they were.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from fedwarm.core.payload import Payload
from fedwarm.record.ledger import Entry
from fedwarm.record.pieces import Pieces

LONG_SECONDS = 30.0


class Kept:
    """The replies of one stage.

    Args:
        pieces: where they lie; None: nothing is kept.
        stage: its number in the run.
        what: its round and name; those of another stage are not found.
        long: whether it takes long, so that every reply is kept; else those that come when it has taken LONG_SECONDS.
    """

    def __init__(self, pieces: Pieces | None, stage: int, what: tuple[int, str], long: bool) -> None:
        self.pieces, self.stage, self.what, self.long = pieces, stage, list(what), long
        self.begun = time.monotonic()
        self._entries: dict[int, list[Entry]] = {}

    def find(self, client: int) -> tuple[Payload, list[Entry]] | None:
        """A client's reply and its exchanges, the refused ones before it among them; None where there is none."""
        found = None if self.pieces is None else self.pieces.find(self.stage, f"reply-{client}")
        if found is None or found[1].get("stage") != self.what:
            return None
        arrays, told = found
        try:
            return Payload(told["kind"], arrays, told["metrics"], told["facts"]), [Entry(**each) for each in told["entries"]]
        except (KeyError, TypeError):
            return None

    def booked(self, entry: Entry, payload: Payload | None) -> None:
        """An exchange with a client ended, by a usable reply where there is a payload."""
        entries = self._entries.setdefault(entry.client, [])
        entries.append(entry)
        if payload is None or self.pieces is None or not (self.long or time.monotonic() - self.begun > LONG_SECONDS):
            return
        told: dict[str, Any] = {"stage": self.what, "kind": payload.kind, "metrics": payload.metrics, "facts": payload.facts}
        told["entries"] = [asdict(each) for each in entries]
        self.pieces.keep(self.stage, f"reply-{entry.client}", payload.arrays, told)

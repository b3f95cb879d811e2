"""What clients say of their data, for the record: texts of another party, cut to what a reader takes in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedwarm.core.payload import Payload
from fedwarm.core.stages import Stage

LONGEST, MOST = 200, 8
NAMED = 8


def remarks(replies: Mapping[int, Payload], known: Sequence[str]) -> list[str]:
    """One line for each remark that is not yet among the known ones, with the clients that make it."""
    by_text: dict[str, list[int]] = {}
    for client, reply in sorted(replies.items()):
        told = reply.facts.get("remarks")
        for text in told[:MOST] if isinstance(told, list) else []:
            if isinstance(text, str) and text.isprintable():
                by_text.setdefault(text[:LONGEST], []).append(client)
    found = {text: f"{_named(clients)}: {text}" for text, clients in by_text.items()}
    return [line for text, line in found.items() if not any(note.endswith(f": {text}") for note in known)]


def unmeasured(stage: Stage, replies: Mapping[int, Payload]) -> list[str]:
    """A line where clients were to measure a round's model and no reply was valid."""
    if stage.measures < 0 or not stage.clients or replies:
        return []
    return [f"round {stage.measures} is not measured: no client's evaluation was valid; ledger.jsonl says why"]


def _named(clients: Sequence[int]) -> str:
    more = f" and {len(clients) - NAMED} more" if len(clients) > NAMED else ""
    return f"client{'s' if len(clients) > 1 else ''} {', '.join(map(str, clients[:NAMED]))}{more}"

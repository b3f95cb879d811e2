"""The fault `replay`: an answer to another message."""

from __future__ import annotations

from dataclasses import replace

from fedwarm.core.payload import Payload
from fedwarm.faults import Fault


class Replay(Fault):
    """An earlier reply of the client to another ticket; where there is none, its own with the ticket of the stage before."""

    remembers = True

    def spoil(self, honest: Payload, sent: Payload, earlier: Payload | None) -> Payload:
        ticket = sent.text("ticket")
        if earlier is not None and earlier.text("ticket") != ticket:
            return earlier
        return replace(honest, facts={**honest.facts, "ticket": stale(ticket)})


def stale(ticket: str) -> str:
    """The ticket of the stage before, which no present message carries."""
    stage, dot, rest = ticket.partition(".")
    return f"{int(stage) - 1}{dot}{rest}" if stage.lstrip("-").isdecimal() else f"-1.{ticket}"


COMPONENT = Replay

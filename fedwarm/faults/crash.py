"""The fault `crash`: the client fails."""

from __future__ import annotations

from fedwarm.faults import Fault, InjectedError


class Crash(Fault):
    """The client raises an error before any work."""

    def before(self, ticket: str) -> None:
        raise InjectedError(f"injected fault: crash, ticket {ticket}")


COMPONENT = Crash

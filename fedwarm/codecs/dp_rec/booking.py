"""The stage that is booked and not yet done: whoever is asked for it again, by a resumed run, answers with the same bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedwarm.codecs.dp_rec.account import Account
from fedwarm.privacy.views import Release


class Open:
    """Which stage was booked last, and for whom; a checkpoint holds it."""

    def __init__(self) -> None:
        self.stage, self.clients = "", frozenset[int]()

    def book(self, account: Account, release: Release, stage: str, clients: tuple[int, ...]) -> None:
        """Account for a stage once: of one that was booked before only those clients who are new in it.

        Args:
            account: where it is booked.
            release: what one message of it releases.
            stage: its name and round.
            clients: who is about to be asked.
        """
        again = stage == self.stage
        if not again:
            self.stage, self.clients = stage, frozenset()
        new = tuple(client for client in clients if client not in self.clients)
        if not (again and account.terms.central):
            account.book(release, new)
        self.clients |= {*new}

    def state(self) -> dict[str, Any]:
        """State for the checkpoint, as JSON."""
        return {"open": {"stage": self.stage, "clients": sorted(self.clients)}}

    def restore(self, facts: Mapping[str, Any]) -> None:
        """Take up what `state` gave; nothing, of a checkpoint from before there was one."""
        found = facts.get("open", {})
        self.stage, self.clients = str(found.get("stage", "")), frozenset(map(int, found.get("clients", ())))

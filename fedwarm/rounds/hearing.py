"""The server's half of what counts once it is heard of, see `rounds.heard`; apart from that, as no client needs a server."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from fedwarm.core.arrays import Arrays
from fedwarm.rounds.heard import HEARD
from fedwarm.rounds.server import BaseStrategy


class Hearing(BaseStrategy):
    """A server that knows the last round of which it took each client's reply in, and tells the client."""

    @cached_property
    def heard(self) -> dict[int, int]:
        """That round by client; those of which it has heard nothing are missing."""
        return {}

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), HEARD: self.heard}

    def restore(self, parts: Mapping[str, Arrays], facts: Mapping[str, Any]) -> None:
        super().restore(parts, facts)
        self.heard = {int(client): int(number) for client, number in facts.get(HEARD, {}).items()}

"""How a run of an app ended, by Flower's status and the run's log."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

KEPT_LINES, TAIL_LINES = 10_000, 50
_ERROR = re.compile(r"(?:^|<class ')((?:\w+\.)*\w*(?:Error|Exception)\w*)(?:: |'>:<')(.+)")
_REPLY_END = "'>"
_RECEIVED = re.compile(r"aggregate_train: Received (\d+) results and (\d+) failures")


@dataclass(frozen=True)
class Outcome:
    """How a run ended: Flower's status (`finished:completed`), its detail, and the run's log without colours."""

    status: str
    details: str
    lines: tuple[str, ...]

    def complaint(self) -> str | None:
        """Why the run counts as failed, in one line, or None.

        Flower's own strategies complete a run in which no client ever succeeded, with the model it began with; that is a failure.
        """
        first = _first_error(self.lines)
        if self.status != "finished:completed":
            told = not first or first.split(": ", 1)[1] in self.details
            return f"the run ended as {self.status}: {self.details}" + ("" if told else f"; first error in the log: {first}")
        received = [tuple(map(int, found.groups())) for line in self.lines if (found := _RECEIVED.search(line))]
        if received and all(results == 0 and failures > 0 for results, failures in received):
            return f"every client failed in every round; first error in the log: {first or 'none'}"
        return None


def _first_error(lines: Sequence[str]) -> str:
    found = next(filter(None, map(_ERROR.search, lines)), None)
    return f"{found[1]}: {found[2].removesuffix(_REPLY_END)}" if found else ""

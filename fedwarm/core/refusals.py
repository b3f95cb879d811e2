"""A client's refusal to send what its own account of privacy does not allow, with a reason that a server can count."""

from __future__ import annotations

import re

from fedwarm.settings.fields import SettingError

NOISE, ROUNDS, REPEATED, EPSILON, OPEN, POLICY = "noise", "rounds", "repeated", "epsilon", "not-private", "policy"
REASONS = (NOISE, ROUNDS, REPEATED, EPSILON, OPEN, POLICY)
_SAID = re.compile(r"(?:client \d+: )?refused \(([a-z-]+)\): ")


class RefusalError(SettingError):
    """What a client does not do, for the sake of its own account or limits; nothing left it."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(f"refused ({reason}): {text}")


def reason_of(failure: str) -> str:
    """The reason of a refusal out of what a failed reply said, one of REASONS; empty where it is none."""
    said = _SAID.match(failure)
    return said[1] if said and said[1] in REASONS else ""

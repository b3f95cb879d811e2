"""Codecs wrap any method by the setting `codec`: what a client uploads is coded at its end and decoded at the server's.

What is coded is the difference to a reference that both sides know: the model that was sent, or an adapter's first matrices. A
codec has a client half (`encode`) and a server half (`open`, `told`, `expected`, `decode`); a private one keeps an account, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from fedwarm.core.arrays import Arrays
from fedwarm.core.payload import Payload
from fedwarm.core.stages import Place
from fedwarm.data.node import Node
from fedwarm.privacy.levels import Level, Reasons
from fedwarm.settings.config import Config
from fedwarm.settings.fields import Group
from fedwarm.settings.kinds import CODECS

WORDS = "words"


@dataclass(frozen=True)
class Upload:
    """Uploads of a stage: names and shapes of the reference, and the largest number of uploads of one client in a run."""

    reference: Arrays
    times: int


class Codec:
    """Base class of codecs; itself the identity.

    Attributes:
        settings: its group of settings; None: it has none.
        codes: whether anything is coded at all.
        private: whether it keeps an account of privacy, by which nothing else may tell of what a client holds.
        hides: the same, as all components say it (see `relevance.FACTS`).
        feedback: whether a client adds what it did not send to what it sends next.
    """

    settings: ClassVar[type[Group] | None] = None

    codes = True
    private = False
    hides: ClassVar[bool] = False
    feedback = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.hides = cls.private

    def __init__(self, config: Config) -> None:
        self.config = config

    # The server's half

    def open(self, uploads: Mapping[str, Upload], population: int, cohort: int) -> None:
        """Prepare for the run; called once, before anything is sent."""

    def told(self) -> dict[str, float]:
        """Metrics that clients need for encoding."""
        return {}

    def expected(self, reference: Arrays) -> Arrays:
        """Arrays with the names, shapes and dtypes that a client sends."""
        return reference

    def decode(self, payload: Payload, reference: Arrays, place: Place) -> Payload:
        """Decode a reply to the payload that the method expects.

        Raises:
            PayloadError: not the output of `encode`.
        """
        return payload

    def book(self, stage: str, clients: tuple[int, ...], number: int = 0) -> None:
        """Account for the release of a stage in round `number`; where it is repeated, for its new clients alone."""

    def statement(self) -> dict[str, Any] | None:
        """The privacy statement; None without an account."""
        return None

    def notes(self) -> list[str]:
        """Notes for the record."""
        return []

    def facts(self) -> dict[str, Any]:
        """State for the checkpoint, as JSON."""
        return {}

    def restore(self, facts: Mapping[str, Any]) -> None:
        """Restore what `facts` returned."""

    # The client's half

    def tells(self, level: Level) -> Reasons:
        """Names sent by this codec that may leave a client in a private run, each with its reason (see `rounds.gate`)."""
        return {}

    def withholds(self, level: Level) -> frozenset[str]:
        """Names of it that are removed from replies in a private run."""
        return frozenset()

    def encode(self, reply: Payload, sent: Payload, reference: Arrays, place: Place, device: torch.device) -> Payload:
        """Encode a reply.

        Args:
            reply: what the method answers.
            sent: what the server sent, with what it `told`.
            reference: what both sides know.
            place: whose message this is.
            device: where heavy work is done.
        """
        return reply

    def guarded(
        self, node: Node, place: Place, sent: Payload, reference: Arrays, encode: Callable[[], Payload], share: float = 1.0
    ) -> Payload:
        """The reply that `encode` makes, as far as the account that a client keeps of its own allows it; kept there, if need be.

        Args:
            share: of the clients that are asked in a round.

        Raises:
            RefusalError: it does not; nothing was drawn.
        """
        return encode()


def codec_for(config: Config) -> Codec:
    """The run's codec.

    Raises:
        SettingError: the method has one of its own, or the codec's settings do not go together.
    """
    made: Codec = CODECS.load(config.run.codec)(config)
    return made

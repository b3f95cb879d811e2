"""Stages of a run, and the identity of a message within them."""

from __future__ import annotations

from dataclasses import dataclass

USUAL = {"query": "describe", "train": "round", "evaluate": "evaluate"}
TOOK = "took_seconds"  # what an engine notes on a reply: how long its client worked


@dataclass(frozen=True)
class Effort:
    """What a method foresees of the stages of a name.

    Attributes:
        seconds: how long one takes; from it on machines that are all alike only the ratio to others counts.
        ticks: the work whose ticks (`fedwarm.core.progress`) say how far it is; empty: none does.
    """

    seconds: float
    ticks: str = ""


@dataclass(frozen=True)
class Place:
    """Identity of a message in a run: exchange and client; unique."""

    seed: int
    stage: str
    round: int
    client: int


@dataclass(frozen=True)
class Stage:
    """One exchange with some clients, or a piece of the server's own work where there are none.

    Attributes:
        round: the round it is booked under.
        name: how the ledger and the display call it.
        message_type: Flower's: `train`, `evaluate` or `query`; empty without clients.
        clients: partitions, ascending.
        measures: the round whose model the replies measure; -1: none.
        long: it takes so long that each reply is kept on disk until all are in.
        alone: it may go on where none of its clients is here.
        action: what clients are to do; empty: what is usual for the type of the message.
        owner: the part (`fedwarm.parts`) that instructs, absorbs and finishes it; empty: the method.
        all: every client must answer, whatever `min-replies` allows.
    """

    round: int
    name: str
    message_type: str = ""
    clients: tuple[int, ...] = ()
    measures: int = -1
    long: bool = False
    alone: bool = False
    action: str = ""
    owner: str = ""
    all: bool = False

    @property
    def asked(self) -> str:
        """The action that clients are asked for."""
        return self.action or USUAL.get(self.message_type, "")

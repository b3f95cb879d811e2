"""What one run of a study came to, round by round, and what it had cost by then: bytes up and client work.

Two accuracies are followed: that of the global model on all test examples, and that of the model which each client would use
(its own where a method gives these, else the global one) on the client's own, each client counting the same. Beside them, by
client (`client:2`), stands that of the global model on a client's own, or of the client's model where a method has no global one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fedwarm.record.ledger import measuring
from fedwarm.record.reading import Round, Run, mean

WATCHED = ("global", "own")
HEADINGS = {"global": "global accuracy", "own": "model that a client would use"}
CLIENT = "client:"


def heading(what: str) -> str:
    """What an accuracy is called in the table."""
    return HEADINGS.get(what) or f"accuracy at client {what.removeprefix(CLIENT)}"


def is_followed(what: str, clients: int = 0) -> bool:
    """Whether there is an accuracy of a name, in a study of so many clients (0: not known)."""
    number = what.removeprefix(CLIENT)
    return what in WATCHED or (what != number and number.isdecimal() and (not clients or int(number) < clients))


@dataclass(frozen=True)
class At:
    """What a run had reached after a round, and what it had cost by then.

    Attributes:
        number: the round.
        found: test accuracies in [0, 1] by `WATCHED` and by client; None where nothing was measured.
        held: the same on examples that clients hold back.
        up: bytes up, of a client in the mean.
        work: seconds that a client worked, in the mean.
    """

    number: int
    found: dict[str, float | None]
    held: dict[str, float | None]
    up: float
    work: float


def course(run: Run, before: At | None = None) -> list[At]:
    """A run's rounds in their order; `before` is what it began with, whose cost counts, too."""
    clients = max(1, run.clients)
    up, work = (before.up, before.work) if before is not None else (0.0, 0.0)
    worked: dict[int, float] = {}
    for entry in run.ledger:
        if not measuring(str(entry["stage"])):
            worked[int(entry["round"])] = worked.get(int(entry["round"]), 0.0) + entry["seconds"]
    found = []
    for r in run.rounds:
        up, work = up + sum(r.up) / clients, work + worked.get(r.number, 0.0) / clients
        found.append(At(r.number, _tested(r), _held(r.validation), up, work))
    return found


def _tested(r: Round) -> dict[str, float | None]:
    return {"global": r.accuracy, "own": used(r.personal, r.clients), **_by_client(r.personal, r.clients)}


def _held(told: dict[str, Any]) -> dict[str, float | None]:
    shared, own = told.get("global") or {}, told.get("personal") or {}
    each = own.get("per_client") or [], shared.get("per_client") or []
    return {"global": shared.get("accuracy"), "own": used(*each), **_by_client(*each)}


def _by_client(own: Sequence[float | None], shared: Sequence[float | None]) -> dict[str, float | None]:
    """Of each client what the global model comes to on its examples; where there is no such model, what its own does."""
    told = shared if any(value is not None for value in shared) else own
    return {f"{CLIENT}{number}": value for number, value in enumerate(told)}


def used(own: Sequence[float | None], shared: Sequence[float | None]) -> float | None:
    """The mean over clients of what their models come to: their own where there are any, else the global one."""
    return mean(own if any(value is not None for value in own) else shared)


def followed(found: dict[str, float | None], watch: str) -> float | None:
    """What is watched of a model's accuracies; of methods without a global model, that of the clients' own."""
    value = found.get(watch)
    return value if value is not None or watch.startswith(CLIENT) else found["own"]


def last(rounds: Sequence[At], several: int = 1) -> At:
    """The end of a run, with all that it cost: the mean of its last so many measurements, or of all there are after round 0.

    Raises:
        ValueError: nothing was measured.
    """
    seen = [at for at in rounds if any(value is not None for value in at.found.values())]
    if not seen:
        raise ValueError("nothing was measured")
    end = [at for at in seen if at.number][-several:] or seen[-1:]
    found, held = _mean([at.found for at in end]), _mean([at.held for at in end])
    return At(end[-1].number, found, held, rounds[-1].up, rounds[-1].work)


def _mean(told: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    """By name; None where one of them has none."""
    return {name: mean([one.get(name) for one in told]) if _known(name, told) else None for name in told[-1]}


def _known(name: str, told: Sequence[dict[str, float | None]]) -> bool:
    return all(one.get(name) is not None for one in told)


def server_seconds(run: Run) -> float:
    """What the server worked by itself: stages that ask no client."""
    asked = {str(entry["stage"]) for entry in run.ledger}
    return math.fsum(seconds for name, seconds in run.stages if name not in asked)

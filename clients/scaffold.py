"""SCAFFOLD's client: local steps corrected by control variates (Karimireddy et al., arXiv 1910.06378, Alg. 1, option II).

Its own control variate stays in its store from round to round. The server's c is the mean of the c_k as long as a change counts
at both or at neither: a new c_k is kept apart until the server says that it has heard of it, and is what the server read where
a codec has changed it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fedwarm.core.arrays import from_tensors, to_tensors
from fedwarm.core.payload import Payload
from fedwarm.core.told import joined, split
from fedwarm.methods.scaffold import CONTROL, ControlVariate, control_after
from fedwarm.rounds.client import BaseClient
from fedwarm.rounds.heard import HEARD, counted
from fedwarm.training.loop import Hook
from fedwarm.training.plan import path_of

OWN, SENT = "control", "control-sent"
Tensors = dict[str, Tensor]


class ScaffoldClient(BaseClient):
    """Trains the received weights along g - c_k + c.

    Attributes:
        shift: c - c_k by name, in this round.
        number: the round.
    """

    shift: Tensors
    number: int

    def round(self, payload: Payload) -> Payload:
        number, (before, told) = payload.count("round", 1), split(payload.arrays, CONTROL)
        shared, self.number = to_tensors(told), number
        kept = counted(self.node.store, OWN, SENT, payload.count(HEARD))
        control = kept or {name: torch.zeros_like(c) for name, c in shared.items()}
        self.shift = {name: shared[name] - control[name] for name in shared}
        reply = super().round(Payload(payload.kind, before, payload.metrics))
        path = path_of(self.config.run, number, self.steps)
        new = self.control(control, shared, to_tensors(before), to_tensors(reply.arrays), path)
        self.node.store.save(SENT, new, number)
        sent = {name: shared[name] + new[name] - control[name] for name in shared}
        return Payload(reply.kind, joined(reply.arrays, from_tensors(sent), CONTROL), reply.metrics, reply.facts)

    def read(self, reply: Callable[[], Payload]) -> None:
        told = to_tensors(split(reply().arrays, CONTROL)[1])
        self.node.store.save(SENT, {name: told[name] - c for name, c in self.shift.items()}, self.number)

    def control(self, own: Tensors, shared: Tensors, before: Tensors, after: Tensors, path: float) -> Tensors:
        """The new control variate of this client (see `control_after`)."""
        return control_after(own, shared, before, after, path)

    def hooks(self) -> list[Hook]:
        return [ControlVariate(self.shift)]

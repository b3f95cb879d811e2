"""SCAFFOLD's client: local steps corrected by control variates (Karimireddy et al., arXiv 1910.06378, Alg. 1, option II).

Its own control variate stays in its store from round to round.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedwarm.core.arrays import from_tensors, to_tensors
from fedwarm.core.payload import Payload
from fedwarm.methods.scaffold import ControlVariate, control_after, joined, split
from fedwarm.rounds.client import BaseClient
from fedwarm.training.loop import Hook, steps_of
from fedwarm.training.plan import path_of

OWN = "control"
Tensors = dict[str, Tensor]


class ScaffoldClient(BaseClient):
    """Trains the received weights along g - c_k + c."""

    def round(self, payload: Payload) -> Payload:
        number, (before, told) = payload.count("round", 1), split(payload.arrays)
        shared = to_tensors(told)
        known = self.node.store.load(OWN, before=number)
        control = known or {name: torch.zeros_like(c) for name, c in shared.items()}
        self.shift = {name: shared[name] - control[name] for name in shared}
        reply = super().round(Payload(payload.kind, before, payload.metrics))
        run = self.config.run
        steps = steps_of(len(self.shard.train_labels), run.batch_size, run.local_epochs)
        path = path_of(run, number, steps)
        new = self.control(control, shared, to_tensors(before), to_tensors(reply.arrays), path)
        self.node.store.save(OWN, new, number)
        sent = {name: shared[name] + new[name] - control[name] for name in shared}
        return Payload(reply.kind, joined(reply.arrays, from_tensors(sent)), reply.metrics, reply.facts)

    def control(self, own: Tensors, shared: Tensors, before: Tensors, after: Tensors, path: float) -> Tensors:
        """The new control variate of this client (see `control_after`)."""
        return control_after(own, shared, before, after, path)

    def hooks(self) -> list[Hook]:
        return [ControlVariate(self.shift)]

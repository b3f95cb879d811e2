"""Tensors that no client trains (`fedwarm.scopes`): the server keeps them apart from the model that travels round after round.

Where they follow from the seed they are never sent. Else a client gets them with its first message and keeps them, together with
the other clients on its machine; one whose reply was not used gets them again, as it may have lost them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from fedwarm.core.arrays import Arrays, from_tensors, to_tensors
from fedwarm.core.inputs import Form
from fedwarm.core.payload import Payload
from fedwarm.core.store import Store
from fedwarm.core.told import joined, split
from fedwarm.models import Model, build_model
from fedwarm.scopes import adds, fixed_in, merged
from fedwarm.settings.kinds import SCOPES

FIXED = "fixed"


class Fixed:
    """The server's half.

    Args:
        settings: of the classifier.

    Attributes:
        arrays: the tensors, by name; empty where everything is trained.
        travels: whether clients must be sent them.
        held: the clients that have them, as far as is known.
    """

    def __init__(self, settings: Model) -> None:
        self.settings = settings
        self.arrays: Arrays = {}
        self.travels = False
        self.held: set[int] = set()
        self._sent: set[int] = set()

    def part(self, arrays: Arrays, model: nn.Module, travels: bool) -> Arrays:
        """Take the tensors out of a model's arrays; what is left of these."""
        names = fixed_in(model)
        self.arrays = {name: array for name, array in arrays.items() if name in names}
        self.travels = travels
        return {name: array for name, array in arrays.items() if name not in names}

    def told(self, client: int, payload: Payload) -> Payload:
        """A message to a client, with the tensors where it needs them."""
        had = client in self.held
        self.held.discard(client)
        self._sent.discard(client)
        if not self.travels or not (had or payload.arrays):
            return payload
        self._sent.add(client)
        return payload if had else replace(payload, arrays=joined(payload.arrays, self.arrays, FIXED))

    def heard(self, client: int) -> None:
        """A client's reply was used, so that it has what it was sent."""
        if client in self._sent:
            self.held.add(client)

    def whole(self, arrays: Arrays) -> Arrays:
        """A model as it is saved and measured: all of the architecture's tensors and no others."""
        if self.settings.train == Model.train and not self.arrays:
            return arrays
        state = to_tensors({**self.arrays, **arrays})
        return from_tensors(merged(SCOPES.load(self.settings.train), state, self.settings.own_settings))

    def facts(self) -> dict[str, Any]:
        """State for the checkpoint, as JSON."""
        return {"travels": self.travels, "held": sorted(self.held)} if self.arrays else {}

    def restore(self, arrays: Arrays, facts: Mapping[str, Any]) -> None:
        """Restore the tensors and what `facts` returned."""
        self.arrays, self.travels, self.held = arrays, bool(facts.get("travels")), set(facts.get("held", ()))


def plain(settings: Model, model: nn.Module, width: int, inputs: Form, seed: int) -> nn.Module:
    """A model that was built by these settings in its architecture's own tensors, whatever `model.train` added to them."""
    scope = SCOPES.load(settings.train)
    if not adds(scope):
        return model
    state = merged(scope, model.state_dict(), settings.own_settings)
    return build_model(replace(settings, train=Model.train), width, inputs, seed, state)


def taken(payload: Payload, store: Store) -> Payload:
    """A client's half: a message without the tensors, which it keeps.

    Raises:
        SettingError: there is no room for them.
    """
    arrays, fixed = split(payload.arrays, FIXED)
    if not fixed:
        return payload
    store.of_all().save(FIXED, to_tensors(fixed), 0)
    return replace(payload, arrays=arrays)


def kept(store: Store) -> Mapping[str, Any]:
    """The tensors that a client of this run on this machine was sent; empty where none was."""
    return store.of_all().load(FIXED) or {}

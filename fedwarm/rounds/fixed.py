"""Tensors that no client trains (`fedwarm.scopes`): the server keeps them apart from the model that travels round after round.

Where they follow from the seed, or from the kind of the head, they are never sent. Else a client gets them with its first message
and keeps them, together with the other clients on its machine, and later messages say that it needs them; one whose reply was not
used gets them again, as it may have lost them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from fedwarm.core.arrays import Arrays, from_module, from_tensors, to_tensors
from fedwarm.core.inputs import Form
from fedwarm.core.payload import Payload, PayloadError, check_arrays
from fedwarm.core.store import Store
from fedwarm.core.told import joined, split
from fedwarm.methods import method_of
from fedwarm.models import Model, build_model, merged_state
from fedwarm.relevance import Run
from fedwarm.scopes import added_in, adds, fixed_in, head_fixed_in
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError
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
        self.names, self.added, self.head = frozenset[str](), frozenset[str](), frozenset[str]()
        self.arrays: Arrays = {}
        self.travels = False
        self.held: set[int] = set()
        self._sent: set[int] = set()

    def seen(self, model: nn.Module) -> nn.Module:
        """A model of the run as it was built, once it is noted what of it is not trained and what not its architecture's own."""
        self.names, self.added, self.head = fixed_in(model), added_in(model), head_fixed_in(model)
        return model

    def start(self, config: Config, given: Mapping[str, Any], own: Arrays) -> Arrays:
        """The first arrays of a run that was given some to start with; what `model.train` adds may be missing, and a fixed head
        stays.

        Args:
            config: the settings.
            given: Flower's arrays by name; none: the run starts with its own.
            own: those that the run would start with.

        Raises:
            SettingError: clients begin with weights of their own, or they are not such as the method starts with.
        """
        if not given:
            return own
        method = config.run.method
        if why := method_of(config).refuses.get("model.weights"):
            raise SettingError(f"initial_arrays cannot be used with method {method!r}, which {why}; leave them out")
        if Run.of(config).begins:
            raise SettingError(
                f"initial_arrays do not reach the first model that clients of method {method!r} build themselves with these "
                "settings; name a file of them by model.weights"
            )
        added, head = (
            {name: array for name, array in own.items() if name.rpartition("/")[2] in names} for names in (self.added, self.head)
        )
        arrays = {**added, **{name: array.numpy() for name, array in given.items()}, **head}
        try:
            check_arrays(arrays, own)
        except PayloadError as error:
            raise SettingError(
                f"initial_arrays are not such as method {method!r} starts with: {error}; leave them out, or give those of a run "
                "with the same settings"
            ) from error
        return {name: arrays[name] for name in own}

    def part(self, arrays: Arrays, build: Callable[[], nn.Module]) -> Arrays:
        """Take the tensors out of a run's first arrays; what is left of these.

        Args:
            arrays: of the run's model, or of one of its architecture.
            build: gives another of the run's models, whose tensors differ where they do not follow from the seed.
        """
        if not self.names:
            return arrays
        drawn = from_module(build())
        self.arrays = {name: array for name, array in arrays.items() if name in self.names}
        differs = any(not np.array_equal(array, drawn[name]) for name, array in self.arrays.items())
        self.travels = differs or bool(self.names - self.head and self.settings.weights)
        return {name: array for name, array in arrays.items() if name not in self.names}

    def told(self, client: int, payload: Payload) -> Payload:
        """A message to a client, with the tensors where it needs them."""
        had = client in self.held
        self.held.discard(client)
        self._sent.discard(client)
        if not self.travels or not (had or payload.arrays):
            return payload
        self._sent.add(client)
        still = {name: array for name, array in self.arrays.items() if name not in self.head}
        arrays = payload.arrays if had else joined(payload.arrays, still, FIXED)
        return replace(payload, arrays=arrays, facts={**payload.facts, FIXED: True})

    def heard(self, client: int) -> None:
        """A client's reply was used, so that it has what it was sent."""
        if client in self._sent:
            self.held.add(client)

    def whole(self, arrays: Arrays) -> Arrays:
        """A model as it is saved and measured: all of the architecture's tensors and no others."""
        found = {**self.arrays, **arrays}
        return from_tensors(merged_state(self.settings, to_tensors(found))) if adds(SCOPES.load(self.settings.train)) else found

    def facts(self) -> dict[str, Any]:
        """State for the checkpoint, as JSON."""
        return {"travels": self.travels, "held": sorted(self.held)} if self.arrays else {}

    def restore(self, arrays: Arrays, facts: Mapping[str, Any]) -> None:
        """Restore the tensors and what `facts` returned."""
        self.arrays, self.travels, self.held = arrays, bool(facts.get("travels")), set(facts.get("held", ()))


def plain(settings: Model, model: nn.Module, width: int, inputs: Form, seed: int) -> nn.Module:
    """A model that was built by these settings in its architecture's own tensors, whatever `model.train` added to them."""
    if not adds(SCOPES.load(settings.train)):
        return model
    state = merged_state(settings, model.state_dict())
    return build_model(replace(settings, train=Model.train), width, inputs, seed, state)


def taken(payload: Payload, store: Store) -> tuple[Payload, bool]:
    """A client's half: (a message without the tensors, which it keeps; whether they are of use for it).

    Raises:
        SettingError: there is no room for them, or they are gone.
    """
    arrays, fixed = split(payload.arrays, FIXED)
    if fixed:
        store.of_all().save(FIXED, to_tensors(fixed), 0)
    needed = FIXED in payload.facts
    if needed and not store.of_all().steps(FIXED):
        raise SettingError("this client does not hold the layers that are not trained; they are sent again")
    return replace(payload, arrays=arrays), needed


def kept(store: Store, needed: bool) -> Mapping[str, Any]:
    """The tensors that a client of this run on this machine was sent; empty where they are of no use or gone."""
    return (store.of_all().load(FIXED) or {}) if needed else {}

"""All settings of a run together: those of the rooms and of every component, and the one way from flat settings to typed ones."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from fedwarm.aggregators import Robust
from fedwarm.core.nodes import Nodes
from fedwarm.data.settings import CLASSES, Data
from fedwarm.diffusion.presets import foundation_presets
from fedwarm.diffusion.settings import Diffusion
from fedwarm.faults import Faults
from fedwarm.metrics import main_of
from fedwarm.models import Model
from fedwarm.privacy.limits import Limits
from fedwarm.settings.config import Config, General
from fedwarm.settings.fields import Group, SettingError, Value, checked, defaults, keys, near
from fedwarm.settings.kinds import (
    FAULTS,
    HEADS,
    KINDS,
    METHODS,
    MODELS,
    NORMS,
    OPTIMISERS,
    PARTITIONS,
    RULES,
    SCHEDULES,
    SCOPES,
    SETS,
    TASKS,
)
from fedwarm.settings.registry import Kind, is_reference, settings_of
from fedwarm.settings.text import literal, parse_overrides


@dataclass(frozen=True)
class Owned:
    """A component that has settings of its own."""

    kind: Kind[Any]
    name: str
    component: Any


ROOMS: tuple[type[Group], ...] = (General, Data, Model, Diffusion, Robust, Faults, Nodes, Limits)
HANDED: Mapping[type[Group], tuple[Kind[Any], ...]] = {
    General: (OPTIMISERS, SCHEDULES, TASKS), Data: (SETS, PARTITIONS), Model: (MODELS, NORMS, HEADS, SCOPES), Robust: (RULES,),
    Faults: (FAULTS,),
}  # fmt: skip
ABSOLUTE = ("out", "client-folder")


@lru_cache(maxsize=1)
def all_groups() -> tuple[type[Group], ...]:
    """The groups of the rooms and of all components; those of packages that cannot be imported are missing."""
    found: list[type[Group]] = [*ROOMS]
    for kind, name in _choosable():
        found += groups_of(kind, name, careful=name not in kind.own())
    return tuple(dict.fromkeys(found))


def _choosable() -> Iterator[tuple[Kind[Any], str]]:
    """The components that a run config can choose, and those that take part in every run."""
    return ((kind, name) for kind in KINDS.values() if kind.key or kind.every for name in kind.names())


@lru_cache(maxsize=8)
def flagged(fact: str) -> frozenset[str]:
    """The keys of the settings whose fields state a fact: `path`, `node`, `neutral`, `free` (see `fields.setting`)."""
    return frozenset(key for key, _, f in keys(all_groups()) if f.metadata[fact])


@lru_cache(maxsize=1)
def owners() -> Mapping[type[Group], list[Owned]]:
    """The components that have a group of settings as their own."""
    found: dict[type[Group], list[Owned]] = {}
    for kind, name in _choosable():
        for group in groups_of(kind, name, careful=True):
            found.setdefault(group, []).append(Owned(kind, name, kind.load(name)))
    return found


def groups_of(kind: Kind[Any], name: str, careful: bool = False) -> tuple[type[Group], ...]:
    """The settings of a component, which has one group, several or none; `careful`: none where it cannot be loaded."""
    try:
        return settings_of(kind.load(name))
    except SettingError:
        if not careful:
            raise
        return ()


def parse(flat: Mapping[str, Value]) -> Config:
    """Typed settings from a flat run config.

    Settings within the key `set` go before others. What a method presets holds where nobody gave the setting; a default that was
    given in its place stands in the key `set` of what is returned, so that these settings are read again as they are.

    Raises:
        SettingError: unknown key (with the near names), wrong type, or a value out of its range.
    """
    given, more = explicit(flat), flat.get("set")
    if isinstance(more, str):
        flat = {**flat, **_set(flat), "set": ""}
    known = (*all_groups(), *_referred(flat))
    table = {key: (group, f) for key, group, f in keys(known)}
    values: dict[type[Group], dict[str, Value]] = {group: {} for group in known}
    for key, value in flat.items():
        if key not in table:
            raise SettingError(f"unknown setting {key!r}{near(key, list(table))}; `fedwarm settings` lists them all")
        group, f = table[key]
        values[group][f.name] = checked(key, value, f)
    for key in ABSOLUTE:
        path = str(flat.get(key, ""))
        if path and not os.path.isabs(path):
            raise SettingError(f"{key} = {path!r} is relative; give an absolute path, as workers run in other folders")
    return _own(_preset(Config({group: group(**values[group]) for group in known}), given, filled(flat)))


def explicit(flat: Mapping[str, Value]) -> frozenset[str]:
    """The settings that somebody gave: those within `set`, and all of them where the rest is left to the defaults.

    A run config that names most of the general settings was filled up, as by Flower from `pyproject.toml` or out of a record: it
    does not tell a default that was given from another.
    """
    return frozenset(_set(flat)) | (frozenset() if filled(flat) else flat.keys())


def filled(flat: Mapping[str, Value]) -> bool:
    """Whether a run config names most of the general settings."""
    general = {key for key, _, _ in keys((General,))}
    return 2 * len(general & flat.keys()) > len(general)


def _set(flat: Mapping[str, Value]) -> dict[str, Value]:
    """The settings within the key `set`."""
    more = flat.get("set")
    return parse_overrides([more]) if isinstance(more, str) and more.strip() else {}


def _referred(flat: Mapping[str, Value]) -> Iterable[type[Group]]:
    """The settings of components that are given as `module:attribute`."""
    for kind in KINDS.values():
        name = flat.get(kind.key)
        if isinstance(name, str) and is_reference(name) and kind.takes(name):
            yield from (group for group in groups_of(kind, name) if group not in all_groups())


def presets(method: str, get: Callable[[str], Value], filled: bool = False) -> Mapping[str, Value]:
    """What a method sets where a setting has its default (see `methods.Method.presets`), and a foundation of full size where no
    run config names most settings; a task has its metric watched."""
    found: Mapping[str, Value] = METHODS.load(method).presets(get, filled) if method in METHODS or is_reference(method) else {}
    found = found if filled else {**foundation_presets(str(get("diffusion.foundation"))), **found}
    task = str(found["task"] if "task" in found and get("task") == General.task else get("task"))
    if task == General.task or not TASKS.takes(task):
        return found
    main = main_of(TASKS.load(task))
    return found if main == General.watch else {"watch": main, **found}


def _preset(config: Config, given: frozenset[str], filled: bool) -> Config:
    """With what the method presets, where a setting has its default and nobody gave it."""
    flat, usual = config.flat(), defaults(tuple(config.groups))
    fresh, free = (
        {k: value for k, value in presets(config.run.method, flat.__getitem__, full).items() if flat[k] == usual[k]}
        for full in (False, filled)
    )
    kept = [f"{key}={literal(flat[key])}" for key, value in fresh.items() if key in given and value != flat[key]]
    return config.changed({**{key: value for key, value in free.items() if key not in given}, "set": " ".join(kept)})


def _own(config: Config) -> Config:
    """With the settings of the chosen components beside those that are handed to them, and what the task wants of the data."""
    flat, groups = config.flat(), dict(config.groups)
    for holder, kinds in HANDED.items():
        chosen = [(kind, str(flat[kind.key])) for kind in kinds if kind.takes(flat[kind.key])]
        if held := tuple(groups[group] for kind, name in chosen for group in groups_of(kind, name)):
            groups[holder] = dataclasses.replace(groups[holder], **{"own_settings": held})  # type: ignore[type-var]
    wanted = getattr(TASKS.load(config.run.task), "targets", CLASSES)
    return Config({**groups, Data: dataclasses.replace(groups[Data], targets=wanted)})  # type: ignore[type-var]

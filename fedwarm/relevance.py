"""Which settings can change what a run does: those of a part that it does not use can not.

Who gives one of those is told. Runs that differ in nothing else are the same run, and a label that named them would mislead.
What is known of a setting stands on its field (`when`), on its group (`used`), and on the components that take it (`uses`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from fedwarm.catalogue import all_groups, explicit, filled, owners, presets
from fedwarm.settings.config import Config, once
from fedwarm.settings.fields import CHOSEN, Group, SettingError, Value, keys
from fedwarm.settings.kinds import KINDS, METHODS
from fedwarm.settings.registry import settings_of

FACTS: Mapping[str, bool] = {
    "trains": True,  # clients train a classifier by the run's plan and objective, for others than themselves
    "uploads": True,  # clients send arrays
    "averages": True,  # the server makes one model of several, by `robust.*`
    "weighs": True,  # a client's number of images counts in that
    "shares": True,  # there is one model for all
    "samples": True,  # a share of the clients takes part in a round
    "rounds": True,  # there are several rounds
    "steps": False,  # something else is trained at the step size of the classifier
    "generates": False,  # the server draws images
    "draws": False,  # clients draw images
    "fills": True,  # clients get synthetic images, where they have any augmentation
    "adapts": False,  # clients tune adapters
    "attaches": False,  # images are drawn from adapters
    "taught": False,  # clients train a teacher on their own data
    "begins": False,  # clients build the run's first model by themselves, and train from there or keep parts of it
    "hides": False,  # what a client holds is not told
    "counts": True,  # clients may tell how many images of each class they hold
    "accounted": False,  # some of what leaves a client is accounted for, so that nothing else may tell of it
    "apart": True,  # each client's data stay with it
    "personal": False,  # clients have models of their own
    "late": False,  # a round's model is measured with the next round
}
# true where one component says so; the others are false where one does
BOTH = ("draws", "hides", "generates", "adapts", "attaches", "steps", "taught", "begins", "accounted", "personal", "late")


def matters(key: str, settings: Mapping[str, Any], method: str) -> bool:
    """Whether a setting can change what a run does; settings that are not given have their defaults."""
    if key not in _fields():
        return True
    run = Run(settings, method)
    return run.asks_for(key) or (key in run.taken and run.in_use(key))


def idle(given: Iterable[str], settings: Mapping[str, Any], method: str, real: bool = False) -> list[str]:
    """Those of the settings that somebody gave that change nothing; `real`: clients are real nodes, and not simulated."""
    return sorted(key for key in given if not matters(key, {**settings, "real": real}, method))


@lru_cache(maxsize=1)
def _fields() -> Mapping[str, tuple[type[Group], Any]]:
    return {key: (group, f) for key, group, f in keys(all_groups())}


def _asked(key: str, there: list[Any]) -> bool:
    """Whether a choice belongs to nobody, or to a component that is there: else nobody asks for it."""
    owned = owners().get(_fields()[key][0]) if key in _fields() else None
    return owned is None or any(owner.component in there for owner in owned)


@dataclass(frozen=True)
class Run:
    """What a run does, by its settings."""

    settings: Mapping[str, Any]
    method: str

    @classmethod
    def of(cls, config: Config) -> Run:
        """The run of these settings."""
        return _run(config)

    def __getitem__(self, key: str) -> Any:
        value = self.given(key)
        preset = key in self._presets and key not in self._given and value == _fields()[key][1].default
        return self._presets[key] if preset else value

    def __getattr__(self, name: str) -> bool:
        if name not in FACTS:
            raise AttributeError(name)
        said = [facts[name] for facts in self._said if name in facts]
        return (any(said) if name in BOTH else all(said)) if said else FACTS[name]

    def given(self, key: str) -> Any:
        """A setting as it is given, or its default; a method's preset is not looked at."""
        return self.settings[key] if key in self.settings else _fields()[key][1].default

    @property
    def real(self) -> bool:
        """Whether clients are real nodes."""
        return bool(self.settings.get("real", False))

    @property
    def chosen(self) -> list[Any]:
        """The components that the settings choose, the method first; those of parts that the run lacks are missing."""
        return [*self._choices.values()]

    @cached_property
    def _choices(self) -> dict[str, Any]:
        """The chosen components by the setting that chooses."""
        found: dict[str, Any] = {}
        for kind in KINDS.values():
            name = self.method if kind is METHODS else self[kind.key] if kind.key in _fields() else ""
            names = {kind.key: name} if not kind.every else {f"{kind.name} {each}": each for each in kind.names()}
            for key, each in names.items():
                with suppress(SettingError):  # what cannot be loaded is missing here, and refused where it is to be used
                    found |= {key: kind.load(str(each))} if kind.takes(each) else {}
        there = [*found.values()]
        return {key: component for key, component in found.items() if _asked(key, there)}

    def stating(self, fact: str) -> list[str]:
        """The choices (`key = 'name'`, or a part and its settings) whose components state a fact, or work it out of this run."""
        said = {key: getattr(found, fact, False) for key, found in self._choices.items()}
        true = [key for key, told in said.items() if (told(self) if callable(told) else told)]
        return [self._named(key) for key in true]

    def _named(self, key: str) -> str:
        if key in _fields():
            return f"{key} = {(self.method if key == METHODS.key else self[key])!r}"
        own = settings_of(self._choices[key])
        return f"{key} ({own[0].prefix}.*)" if own else key

    def in_use(self, key: str) -> bool:
        """Whether the group of a setting is used at all."""
        group = _fields()[key][0]
        return self.has(group) and (group.used is None or bool(group.used(self)))

    def asks_for(self, key: str) -> bool:
        """Whether a setting is used for what stands on its field, whatever components say."""
        when = _fields()[key][1].metadata["when"]
        return when is not CHOSEN and self.in_use(key) and (when is None or bool(when(self)))

    def _decides(self, key: str) -> bool:
        """Whether a choice has an effect, as far as that is known without `taken`."""
        return self.asks_for(key) or (_fields()[key][1].metadata["when"] is CHOSEN and self.in_use(key))

    @cached_property
    def taken(self) -> frozenset[str]:
        """The settings that a chosen component takes beside its own group; one that is chosen to no effect takes none."""
        effective = [found for key, found in self._choices.items() if key not in _fields() or self._decides(key)]
        lists = [getattr(found, "uses", ()) for found in effective]
        return frozenset(key for found in lists for key in (found(self) if callable(found) else found))

    def has(self, group: type[Group]) -> bool:
        """Whether a component that has this group is chosen, or the group is nobody's own."""
        found = owners().get(group)
        return found is None or any(owner.component in self.chosen for owner in found)

    @cached_property
    def _given(self) -> frozenset[str]:
        return explicit(self.settings)

    @cached_property
    def _presets(self) -> Mapping[str, Value]:
        return presets(self.method, self.given, filled(self.settings))

    @cached_property
    def _said(self) -> list[Mapping[str, bool]]:
        said: list[Mapping[str, bool]] = [
            dict(does(self)) for found in self.chosen if (does := getattr(found, "does", None)) is not None
        ]
        if any(getattr(found, "hides", False) for found in self.chosen):
            said.append({"hides": True, "counts": False, "accounted": True, "weighs": False})
        return said


@once
def _run(config: Config) -> Run:
    return Run(config.flat(), config.run.method)

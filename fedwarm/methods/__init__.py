"""Methods: their formulas, settings and declarations, as pure functions and frozen dataclasses.

Each file is one method and binds `COMPONENT`, a `Method`. Its server side is the file of the same stem in `strategies`, its
client side that in `clients`; a side with nothing of its own has no file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedwarm.settings.config import Config, once
from fedwarm.settings.fields import Group, SettingError, Value, defaults
from fedwarm.settings.kinds import METHODS

Preset = Mapping[str, Value] | Callable[[Callable[[str], Value]], Mapping[str, Value]]


@dataclass(frozen=True)
class Method:
    """Declaration of a method.

    Attributes:
        title: the name of its strategy's class, e.g. `FedProx`.
        summary: one line for lists.
        settings: its group of settings, or None.
        hooks: what makes the hooks of local training, each from the group.
        preset: what it sets where a setting has its default: by key, or worked out of the others, which it gets by key.
        defaults: the same for what is no part of it, but does well with it. A run config that names most of the general settings,
            as a record's or one that Flower filled up, is taken as it stands.
        clients: how many there are where nobody says and the partition makes any number of them; 0: as many as of all methods.
        reach: lines before a run that say what it can come to, of a `relevance.Run`, its settings and the number of clients.
        does: what its runs do (see `relevance.FACTS`), where that is not the usual.
        validate: refuses settings that do not go together, from them alone.
        check: refuses before a run what cannot be, from the settings and what is known (`parts.Known`).
        earlier: the settings that name files of earlier runs, and their values; what those were trained on counts as this run's.
        fixed_rounds: why the number of rounds cannot be another once a run has begun; an empty text where it can.
        stacks: whether clients train one model by the run's settings alone and with its hooks, so that they can train together
            where hooks, objective and optimiser allow it (see `training.cohort`).
        averages: whether what an objective learns beside the weights is averaged like them.
        refuses: settings that must keep their default, and why.
        hides: whether what leaves a client is accounted for, so that nothing else may tell of what it holds.
        reference: whether it is no federation at all, which pages and tables say.
        pictures: whether it works on RGB pictures alone, or a function of `relevance.Run` that says so: other inputs are refused
            before the run. Any component may state this fact.
        classed: the same of targets: whether these must be classes, so that tasks with others are refused.
        answered: the same of outputs: whether these must answer the targets (`tasks.Task.answers`).
        layers: the layers that it works on, in words; empty: any. What a model lacks of them is refused by its `check`.
        uses: keys of settings of other groups that it takes, or a function of `relevance.Run` that gives them.
        server, client: `module:Class` of its two sides, for methods of other packages; empty: the file of its stem, else FedAvg.
    """

    title: str
    summary: str
    settings: type[Group] | None = None
    hooks: tuple[Callable[[Any], Any], ...] = ()
    preset: Preset = field(default_factory=dict)
    defaults: Preset = field(default_factory=dict)
    clients: int = 0
    reach: Callable[[Any, Config, int], Iterable[str]] | None = None
    does: Callable[[Any], Mapping[str, bool]] | None = None
    validate: Callable[[Config], Any] | None = None
    check: Callable[[Config, Any], None] | None = None
    earlier: Callable[[Config], Iterable[tuple[str, str]]] = lambda config: ()
    fixed_rounds: Callable[[Config], str] | None = None
    stacks: bool = False
    averages: bool = True
    refuses: Mapping[str, str] = field(default_factory=dict)
    reference: bool = False
    hides: bool = False
    pictures: bool | Callable[[Any], bool] = False
    classed: bool | Callable[[Any], bool] = False
    answered: bool | Callable[[Any], bool] = False
    layers: str = ""
    uses: tuple[str, ...] | Callable[[Any], Sequence[str]] = ()
    server: str = ""
    client: str = ""

    def presets(self, get: Callable[[str], Value], filled: bool = False) -> Mapping[str, Value]:
        """The settings that the method presets, where they have their default.

        Args:
            get: gives a run's settings by key.
            filled: whether they come from a run config that names most of them, and no `defaults` are looked at.
        """
        own, more = (each(get) if callable(each) else each for each in (self.preset, {} if filled else self.defaults))
        return {**more, **own}

    def local_hooks(self, config: Config) -> list[Any]:
        """Hooks of the client's local training."""
        return [make(None if self.settings is None else config.of(self.settings)) for make in self.hooks]


@once
def refuse(config: Config) -> None:
    """Refuse settings that the method excludes, or that do not go together with it; both sides of a run do, and its check before.

    Raises:
        SettingError: one of them does not.
    """
    flat, usual = config.flat(), defaults(tuple(config.groups))
    for key, reason in method_of(config).refuses.items():
        if flat[key] != usual[key]:
            raise SettingError(f"{key} = {flat[key]!r} cannot be used with method {config.run.method!r}, which {reason}")
    if (validate := method_of(config).validate) is not None:
        validate(config)


def refuse_early_end(config: Config, why: str) -> None:
    """Refuse what may end the rounds before those that a method's plan needs.

    Args:
        config: the settings.
        why: what the later rounds are for; empty: nothing is planned for them.

    Raises:
        SettingError: `patience` or `target` is set.
    """
    early = [f"{key} = {value:g}" for key, value in (("patience", config.run.patience), ("target", config.run.target)) if value]
    if why and early:
        raise SettingError(f"{' and '.join(early)} may end method {config.run.method!r} too early: {why}; leave it 0")


def method_of(config: Config) -> Method:
    """The run's method."""
    found: Method = METHODS.load(config.run.method)
    return found

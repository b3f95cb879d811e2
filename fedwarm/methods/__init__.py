"""What methods are made of: formulas, settings and what a method says of itself; pure functions and frozen dataclasses.

Each file is one method and binds `COMPONENT`, a `Method`. Its server side is the file of the same stem in `strategies`, its
client side that in `clients`; a side with nothing of its own has no file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedwarm.settings.config import Config
from fedwarm.settings.fields import Group, SettingError, Value, defaults
from fedwarm.settings.kinds import METHODS

Preset = Mapping[str, Value] | Callable[[Callable[[str], Value]], Mapping[str, Value]]


@dataclass(frozen=True)
class Method:
    """A method, declared.

    Attributes:
        title: the name of its strategy's class, e.g. `FedProx`.
        summary: one line for lists.
        settings: its group of settings, or None.
        hooks: what makes the hooks of local training, each from the group.
        preset: what it sets where a setting has its default: by key, or worked out of the others, which it gets by key.
        does: what its runs do (see `relevance.FACTS`), where that is not the usual.
        validate: refuses settings that do not go together, from them alone.
        check: refuses before a run what cannot be, from the settings and what is known (`parts.Known`).
        fixed_rounds: why the number of rounds cannot be another once a run has begun; an empty text where it can.
        averages: whether what an objective learns beside the weights is averaged like them.
        refuses: settings that must keep their default, and why.
        hides: whether what leaves a client is accounted for, so that nothing else may tell of what it holds.
        reference: whether it is no federation at all, which pages and tables say.
        uses: keys of settings of other groups that it takes, or a function of `relevance.Run` that gives them.
        server, client: `module:Class` of its two sides, for methods of other packages; empty: the file of its stem, else FedAvg.
    """

    title: str
    summary: str
    settings: type[Group] | None = None
    hooks: tuple[Callable[[Any], Any], ...] = ()
    preset: Preset = field(default_factory=dict)
    does: Callable[[Any], Mapping[str, bool]] | None = None
    validate: Callable[[Config], Any] | None = None
    check: Callable[[Config, Any], None] | None = None
    fixed_rounds: Callable[[Config], str] | None = None
    averages: bool = True
    refuses: Mapping[str, str] = field(default_factory=dict)
    reference: bool = False
    hides: bool = False
    uses: tuple[str, ...] | Callable[[Any], Sequence[str]] = ()
    server: str = ""
    client: str = ""

    def presets(self, get: Callable[[str], Value]) -> Mapping[str, Value]:
        """What it sets where a setting has its default; `get` gives a run's settings by key."""
        return self.preset(get) if callable(self.preset) else self.preset

    def local_hooks(self, config: Config) -> list[Any]:
        """The hooks of a client's local training."""
        return [make(None if self.settings is None else config.of(self.settings)) for make in self.hooks]


def refuse(config: Config) -> None:
    """See that the settings leave alone what the method refuses.

    Raises:
        SettingError: one of them does not.
    """
    flat, usual = config.flat(), defaults(tuple(config.groups))
    for key, reason in method_of(config).refuses.items():
        if flat[key] != usual[key]:
            raise SettingError(f"{key} = {flat[key]!r} means nothing with method {config.run.method!r}, which {reason}")


def method_of(config: Config) -> Method:
    """The run's method."""
    found: Method = METHODS.load(config.run.method)
    return found

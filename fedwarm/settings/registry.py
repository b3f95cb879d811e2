"""Kinds of components: every choice of a run is a name, and behind each name stands one component.

A kind is a folder: each of its modules and packages is a component, which it binds as `COMPONENT`. An installed package adds its
own by an entry point of the kind's group (`[project.entry-points."fedwarm.codecs"] top-k = "mine:TopK"`), and anybody by
`module:attribute` in the setting. There is no table of names. Nothing is imported before it is chosen or listed.
"""

from __future__ import annotations

import os
import pkgutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module, metadata, util
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from fedwarm.settings.ranges import SettingError, near

C = TypeVar("C")
T = TypeVar("T", bound=Callable[..., Any])


@dataclass(frozen=True)
class Owner:
    """Where a component stands.

    Attributes:
        module, attribute: what is imported.
        place: how people are told of it.
    """

    module: str
    attribute: str
    place: str


class Kind(Generic[C]):
    """One axis of choice.

    Args:
        name: the kind in the singular, e.g. `codec`.
        package: the folder of its components as a package; its group of entry points has the last part's name.
        key: the setting that chooses; empty where none does.
        option: the command's option that chooses, where one does.
        group: the entry points' group, where it is not `fedwarm.<last part of package>`.
        first: the choice of none, listed first.
        hyphens: whether names are written with hyphens; either way `-` and `_` count as the same.
        open: whether the setting takes other text, too (a path, a name elsewhere).
        every: whether all that there are take part in every run.
        libraries: the kind whose components give components of this one by name, as `library:name`.
        has: attributes that a component of this kind has, by which another thing is told from one.
    """

    def __init__(
        self, name: str, package: str, key: str = "", *, group: str = "", first: str = "", hyphens: bool = False,
        open: bool = False, option: str = "", every: bool = False, libraries: Kind[Any] | None = None, has: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        self.name, self.package, self.key, self.first, self.hyphens, self.open = name, package, key, first, hyphens, open
        self.option, self.every, self.libraries, self.has = option, every, libraries, has
        self.group = group or f"fedwarm.{package.rpartition('.')[2]}"

    def __repr__(self) -> str:
        return f"Kind({self.name!r})"

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.spelled(name) in self.owners()

    def spelled(self, name: str) -> str:
        """A name as this kind writes it."""
        return name.replace("_", "-").lower() if self.hyphens else name.replace("-", "_").lower()

    def own(self) -> tuple[str, ...]:
        """The names of this project's own components, that of none first."""
        return tuple(sorted(map(self.spelled, _modules(self.package)), key=lambda name: (name != self.first, name)))

    def names(self) -> tuple[str, ...]:
        """All names: this project's own, then those of installed packages."""
        own = self.own()
        return own + tuple(sorted(name for name in self.owners() if name not in own))

    def owners(self) -> dict[str, list[Owner]]:
        """Who has each name; more than one owner is a mistake that is told when the name is chosen."""
        return _owners(self)

    def canonical(self, name: str, key: str = "") -> str:
        """The name as it is recorded; `key` is the setting that has it, where that is another than the kind's own.

        Raises:
            SettingError: there is no such component (with the near names and the list), or two have this name. An open kind
                takes any other text as it is.
        """
        if is_reference(name) or (self.open and not self.takes(name)):
            return name
        owners, wanted = self.owners().get(self.spelled(name), []), self.spelled(name)
        if len(owners) > 1:
            places = " and ".join(owner.place for owner in owners)
            raise SettingError(f"two components are the {self.name} {wanted!r}: {places}; uninstall or rename one of them")
        if not owners:
            known, by = self.names(), f"{key or self.key} = " if key or self.key else f"{self.option} " if self.option else ""
            raise SettingError(
                f"{by}{name!r} is not a known {self.name}{near(wanted, list(known))}; "
                f"choose one of {', '.join(known)}, or give {self._others}module:attribute"
            )
        return wanted

    @property
    def _others(self) -> str:
        """What else names a component, for errors."""
        return "" if self.libraries is None else f"LIBRARY:NAME ({', '.join(self.libraries)}) or "

    def takes(self, text: object) -> bool:
        """Whether a setting's text names a component; of an open kind, a folder or file of that name is meant before it."""
        if not isinstance(text, str) or (self.open and is_reference(text) and os.path.exists(text)):
            return False
        return is_reference(text) or text in self

    def titled(self, title: str) -> str | None:
        """The name that a class's name spells: `FedProx` is `fedprox`, `DpRec` is `dp_rec`; None where it spells none."""
        if not title[:1].isupper():
            return None
        return next((name for name in self.names() if name.replace("_", "").replace("-", "") == title.lower()), None)

    def load(self, name: str) -> C:
        """The component of a name, of `library:name`, or of `module:attribute`.

        Raises:
            SettingError: there is none, two have the name, it cannot be imported, or is something else.
        """
        name = self.canonical(name)
        library, _, rest = name.partition(":")
        if rest and self.libraries is not None and library in self.libraries:
            return cast(C, self.libraries.load(library)(rest))
        if is_reference(name):
            return self._one(name, referred(name, f"{self.name} {name!r}"))
        return cast(C, _loaded(self.owners()[name][0], f"{self.name} {name!r}"))

    def _one(self, name: str, found: Any) -> C:
        """What a reference names, if it is a component of this kind."""
        if missing := [attribute for attribute in self.has if not hasattr(found, attribute)]:
            module = name.partition(":")[0]
            other = getattr(sys.modules.get(module), "COMPONENT", None)
            meant = other is not None and all(hasattr(other, attribute) for attribute in self.has)
            remedy = f"did you mean {module}:COMPONENT?" if meant else "see docs/components.md"
            raise SettingError(f"{self.name} {name!r} is {type(found).__name__} without {missing[0]!r}, and so none; {remedy}")
        return cast(C, found)


def component(settings: Any = None, needs: tuple[str, ...] = (), **facts: Any) -> Callable[[T], T]:
    """Say of a function that is a component what it takes.

    Args:
        settings: its group of settings.
        needs: packages that must be installed, as pip names them.
        facts: what else its kind asks of a component, by name.
    """

    def said(function: T) -> T:
        vars(function).update(settings=settings, needs=needs, **facts)
        return function

    return said


def is_reference(name: str) -> bool:
    """Whether a name is `module:attribute`."""
    module, colon, attribute = name.partition(":")
    return bool(colon) and all(part.isidentifier() for part in [*module.split("."), *attribute.split(".")])


def settings_of(found: object) -> tuple[Any, ...]:
    """The groups of settings that a component has: one, several or none."""
    settings = getattr(found, "settings", None)
    return settings if isinstance(settings, tuple) else () if settings is None else (settings,)


def own_of(found: object, settings: tuple[Any, ...]) -> tuple[Any, ...]:
    """Those of the settings that are a component's own, in its order; where they are missing, their defaults."""
    own = {type(group): group for group in settings}
    return tuple(own[group] if group in own else group() for group in settings_of(found))


def summary(found: object) -> str:
    """What a component says of itself in one line: its `summary`, else the first sentence of its docstring."""
    said = getattr(found, "summary", "")
    text = said if isinstance(said, str) and said else (getattr(found, "__doc__", None) or "")
    return " ".join(text.strip().partition("\n\n")[0].split())


def referred(reference: str, what: str) -> Any:
    """What `module:attribute` names.

    Raises:
        SettingError: `what` cannot be imported.
    """
    module, _, attribute = reference.partition(":")
    return _loaded(Owner(module, attribute, reference), what)


def refresh() -> None:
    """Forget which components there are: packages that came or went in this process are found."""
    for known in (_modules, _all_entry_points, _owners):
        known.cache_clear()


def _loaded(owner: Owner, what: str) -> Any:
    with nullcontext() if owner.module in sys.modules else own_modules():
        try:
            found: Any = import_module(owner.module)
        except Exception as error:  # whatever a foreign module does while it is imported
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise SettingError(f"{what} cannot be loaded: {owner.place}: {reason}") from error
    for part in owner.attribute.split("."):
        if not hasattr(found, part):
            raise SettingError(f"{what} cannot be loaded: {getattr(found, '__file__', None) or owner.module} has no {part!r}")
        found = getattr(found, part)
    return found


def own_code(reference: str) -> Path | None:
    """The file or the package's folder that a `module:attribute` of somebody's own is in; None of one that is installed."""
    top = reference.partition(":")[0].partition(".")[0]
    for place in _places():
        for found in (Path(place, f"{top}.py"), Path(place, top)):
            if found.is_file() or (found / "__init__.py").is_file():
                return found
    return None


@contextmanager
def own_modules() -> Iterator[None]:
    """Modules are looked for in the current folder, too."""
    added = [place for place in _places() if place not in sys.path]
    sys.path[:] = added + sys.path
    try:
        yield
    finally:
        for place in added:
            if place in sys.path:
                sys.path.remove(place)


def _places() -> list[str]:
    try:
        return [os.getcwd()]
    except FileNotFoundError:  # the current folder is gone
        return []


@lru_cache(maxsize=64)
def _modules(package: str) -> tuple[str, ...]:
    spec = util.find_spec(package)
    places = [*(spec.submodule_search_locations or ())] if spec is not None else []
    return tuple(module.name for module in pkgutil.iter_modules(places) if not module.name.startswith("_"))


@lru_cache(maxsize=1)
def _all_entry_points() -> dict[str, list[metadata.EntryPoint]]:
    found: dict[str, list[metadata.EntryPoint]] = {}
    for package in metadata.distributions():
        for point in package.entry_points:
            known = found.setdefault(point.group, []) if point.group.startswith("fedwarm.") else None
            if known is not None and point not in known:  # a package may stand twice on the path
                known.append(point)
    return found


def _entry_points(group: str) -> list[metadata.EntryPoint]:
    return _all_entry_points().get(group, [])


@lru_cache(maxsize=64)
def _owners(kind: Kind[Any]) -> dict[str, list[Owner]]:
    found: dict[str, list[Owner]] = {}
    for module in _modules(kind.package):
        place = f"{kind.package}.{module}"
        found.setdefault(kind.spelled(module), []).append(Owner(place, "COMPONENT", place))
    for point in _entry_points(kind.group):
        module, _, attribute = point.value.partition(":")
        place = f"{point.value} of package {point.dist.name if point.dist else '?'}"
        found.setdefault(kind.spelled(point.name), []).append(Owner(module.strip(), attribute.strip() or "COMPONENT", place))
    return found

"""A Flower app as its folder describes it: the two components and the run config, and its modules imported."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from fedwarm.settings.fields import SettingError, Value, near
from fedwarm.settings.text import flat, read_toml

if TYPE_CHECKING:
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp


@dataclass(frozen=True)
class FlowerApp:
    """An app: `server` and `client` are "module:attribute"; `folder` holds the modules (None: they are installed)."""

    server: str
    client: str
    config: dict[str, Value]
    folder: Path | None


def read_app(folder: Path) -> FlowerApp:
    """The app in `folder`, out of its pyproject.toml; config tables become dotted keys.

    Raises:
        SettingError: no pyproject.toml, one that is no TOML, or one without both components.
    """
    file = folder / "pyproject.toml"
    if not file.is_file():
        raise SettingError(f"{folder} is not a Flower app, as it has no pyproject.toml; give the app's folder")
    app = _table(_table(_table(read_toml(file), "tool"), "flwr"), "app")
    parts = _table(app, "components")
    server, client = parts.get("serverapp"), parts.get("clientapp")
    if not (isinstance(server, str) and isinstance(client, str)):
        raise SettingError(f"{file} is no Flower app's: [tool.flwr.app.components] must name a serverapp and a clientapp")
    return FlowerApp(server, client, flat(_table(app, "config"), str(file)), folder.resolve())


def refuse_unknown(folder: Path, overrides: Mapping[str, Value]) -> None:
    """See that an app has every setting that is overridden.

    Raises:
        SettingError: it has not; or the folder is no app's.
    """
    known = list(read_app(folder).config)
    for key in overrides:
        if key not in known:
            raise SettingError(
                f"unknown setting {key!r} of the app {folder}{near(key, known)}; its pyproject.toml lists its settings"
            )


def merged(config: Mapping[str, Value], overrides: Mapping[str, Value]) -> dict[str, Value]:
    """The config with the overrides in it.

    Raises:
        SettingError: an override names no key of the config; the error names the near ones.
    """
    for key in overrides:
        if key not in config:
            raise SettingError(f"unknown setting {key!r}{near(key, list(config))}; the app has {', '.join(config) or 'none'}")
    return {**config, **overrides}


def load(reference: str, folder: Path | None) -> ServerApp | ClientApp:
    """The app object that `reference` ("module:attribute") names, its module imported with `folder` first on the path.

    The folder stays on the path, as apps import while they run; when another one takes its place, what was imported from the
    first is forgotten, so that two apps with a module `task` each get their own.

    Raises:
        SettingError: no such module or attribute, an import that fails in it, or an attribute that is no Flower app.
    """
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp

    name, colon, attribute = reference.partition(":")
    if not (name and colon and attribute):
        raise SettingError(f"{reference!r} names no app; it must read module:attribute, e.g. client_app:app")
    enter(folder.resolve() if folder else None)
    try:
        found: Any = importlib.import_module(name)
    except ImportError as error:
        raise SettingError(f"{reference} cannot be imported{f' from {folder}' if folder else ''}: {error}") from error
    _check_place(name.partition(".")[0], reference)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise SettingError(f"{reference} does not exist: {getattr(found, '__file__', name)} has no {part!r}")
        found = getattr(found, part)
    if not isinstance(found, (ServerApp, ClientApp)):
        raise SettingError(f"{reference} is {type(found).__name__}; it must be a ServerApp or a ClientApp")
    return found


@dataclass(frozen=True)
class _Entered:
    folder: Path
    modules_before: frozenset[str]


_entered: _Entered | None = None


def enter(folder: Path | None) -> None:
    """Put an app's folder on the path, in the place of the one before, whose modules are forgotten; None: none."""
    global _entered
    if _entered is not None and _entered.folder != folder:
        _leave(_entered)
        _entered = None
    if folder is not None and _entered is None:
        _entered = _Entered(folder, frozenset(sys.modules))
        sys.path.insert(0, str(folder))
    importlib.invalidate_caches()


def _leave(entered: _Entered) -> None:
    if str(entered.folder) in sys.path:
        sys.path.remove(str(entered.folder))
    for name in [name for name in sys.modules if name not in entered.modules_before]:
        top = name.partition(".")[0]
        if top not in entered.modules_before and _lies_in(sys.modules.get(top), entered.folder):
            for gone in [name for name in sys.modules if name.partition(".")[0] == top]:
                del sys.modules[gone]


def _lies_in(module: ModuleType | None, folder: Path) -> bool:
    """Whether a top-level module stands directly in `folder`."""
    places = [Path(place) for place in getattr(module, "__path__", [])] or [Path(getattr(module, "__file__", None) or "/")]
    return any(place.parent.resolve() == folder for place in places)


def _check_place(top: str, reference: str) -> None:
    """Refuse a module of the same name that something else had imported before the app's folder was on the path."""
    if _entered is None or not any((_entered.folder / name).exists() for name in (f"{top}.py", top)):
        return
    if not _lies_in(sys.modules[top], _entered.folder):
        taken = getattr(sys.modules[top], "__file__", None) or top
        raise SettingError(
            f"{reference} of {_entered.folder} cannot be imported: the name {top!r} is taken by {taken}; rename the app's module"
        )


def _table(table: dict[str, Any], key: str) -> dict[str, Any]:
    found = table.get(key, {})
    return found if isinstance(found, dict) else {}

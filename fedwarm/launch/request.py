"""What `fedwarm run METHOD` was asked, and the settings that follow from it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from fedwarm.catalogue import flagged, presets
from fedwarm.core.capacity import workers_for
from fedwarm.data.settings import OWN
from fedwarm.engines import FEDERATION, Asked, Engine, refuse
from fedwarm.record.folder import runs_root
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError, Value
from fedwarm.settings.kinds import ENGINES, METHODS
from fedwarm.settings.text import parse_overrides

DEFAULTS_VARIABLE = "FEDWARM_RUN_CONFIG"


@dataclass(frozen=True)
class Request:
    """A run as it is asked for on the command line, or from Python.

    Attributes:
        engine: a name of the kind, or `module:attribute`.
        run_config: settings as text, as `-c` takes them.
        settings: settings as values, by key; they win over `run_config`.
        progress: whether progress is shown while the run works.
    """

    method: str
    engine: str = ENGINES.first
    out: Path | None = None
    seed: int | None = None
    rounds: int | None = None
    clients: int = 0
    workers: int = 0
    fresh: bool = False
    resume: bool = False
    run_config: tuple[str, ...] = ()
    federation: str = FEDERATION
    keep_going: bool = False
    settings: Mapping[str, Value] = field(default_factory=dict)
    progress: bool = True

    @property
    def asked(self) -> Asked:
        """What the engine is asked, as long as the number of clients is the request's own."""
        return Asked(self.clients, self.workers, self.federation, self.keep_going)


def check_numbers(request: Request) -> None:
    """Refuse numbers that are none, and fewer processes than there can be, before anything is done.

    Raises:
        SettingError: one is.
    """
    for name in ("seed", "rounds", "clients", "workers"):
        value = getattr(request, name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise SettingError(f"--{name} {value!r} is {type(value).__name__}; give a whole number")
    workers_for(1, request.workers)


def engine_of(name: str, asked: Asked) -> Engine:
    """The engine of a name.

    Raises:
        SettingError: there is none, or it does not take an option that was given.
    """
    engine = cast(Engine, ENGINES.load(name))
    if set(asked.given) - {*engine.takes}:
        refuse(engine, asked, {each: ENGINES.load(each) for each in ENGINES.own()})
    return engine


def asked(request: Request) -> dict[str, Value]:
    """The settings of a request, flat; those of the environment's `FEDWARM_RUN_CONFIG` come first and lose."""
    own: dict[str, Value] = {**parse_overrides(request.run_config), **request.settings}
    flat = {**parse_overrides(_usual()), **own}
    if "method" in own:
        own["method"] = METHODS.canonical(str(own["method"]))
    method = METHODS.canonical(request.method) if request.method else None
    said = {"method": ("METHOD", method), "seed": ("--seed", request.seed), "num-server-rounds": ("--rounds", request.rounds)}
    for key, (name, value) in said.items():
        if value is None:
            continue
        if own.get(key, value) != value:
            raise SettingError(f"{name} is {value!r}, and the settings say {key} = {own[key]!r}; give one of them")
        flat[key] = value
    return flat | absolute(flat)


def own_defaults(config: Config) -> dict[str, Value]:
    """The method's own defaults as they are in force, by key: they are lost where an engine fills the settings up."""
    method, flat = config.run.method, config.flat()
    own = presets(method, flat.__getitem__).keys() - presets(method, flat.__getitem__, filled=True).keys()
    return {key: flat[key] for key in sorted(own)}


def absolute(flat: Mapping[str, Value]) -> dict[str, Value]:
    """Those of the settings that name something on this disk, with its absolute path."""
    paths = {key: str(flat.get(key) or "") for key in flagged("path")}
    there = {key: path for key, path in paths.items() if path and (key, path) != ("data.name", OWN) and Path(path).exists()}
    return {key: str(Path(path).absolute()) for key, path in there.items()}


def _usual() -> list[str]:
    return [text] if (text := os.environ.get(DEFAULTS_VARIABLE, "").strip()) else []


def given(request: Request) -> dict[str, str]:
    """What somebody gave, by key: how it is called where it was given last."""
    names = {key: f"{key} (in {DEFAULTS_VARIABLE})" for key in parse_overrides(_usual())}
    names |= {key: key for key in {**parse_overrides([*request.run_config]), **request.settings}}
    return names | ({"num-server-rounds": "--rounds"} if request.rounds is not None else {})


def folder_of(request: Request, flat: Mapping[str, Value]) -> Path:
    """Where the run is recorded."""
    if request.out is not None:
        return request.out
    return Path(str(flat.get("out") or runs_root() / f"{flat['method']}-seed-{flat.get('seed', 0)}"))

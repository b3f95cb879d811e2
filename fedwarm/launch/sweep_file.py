"""What a sweep's file says: methods, seeds and a grid of settings, and the runs that follow from them.

methods = ["fedavg", "fedprox"]
seeds = [0, 1, 2]
clients = 4
[settings]                    # of every run
num-server-rounds = 10
[grid]                        # every combination; a method takes part in its own keys and in the common ones
local-epochs = [1, 2]
fedprox.mu = [0.01, 0.1]
"""

from __future__ import annotations

import itertools
import re
import tomllib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedwarm.catalogue import parse
from fedwarm.launch.request import absolute
from fedwarm.report.compare import concerns
from fedwarm.settings.fields import SettingError, Value, near
from fedwarm.settings.kinds import METHODS
from fedwarm.settings.text import flat, literal, pair, parse_overrides

KINDS: dict[str, type] = {"methods": list, "seeds": list, "clients": int, "settings": dict, "grid": dict}
ELSEWHERE = {
    "method": "methods stand in `methods`",
    "seed": "seeds stand in `seeds`",
    "out": "the folder is given by --out",
    "resume": "a sweep always goes on with what is there",
}
LONGEST_VALUE = 32


@dataclass(frozen=True)
class Sweep:
    """What a sweep file says; `grid` holds the values of each setting that is varied."""

    methods: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    clients: int = 0
    settings: dict[str, Value] = field(default_factory=dict)
    grid: dict[str, tuple[Value, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """One run of several: `varied` are its values of the grid, `settings` all that its file and the command line set.

    `label` is what it is called; empty: by its method.
    """

    method: str
    seed: int
    varied: dict[str, Value]
    settings: dict[str, Value]
    label: str = ""

    @property
    def name(self) -> str:
        """The folder's name, which depends on the label or method, the values of the grid and the seed alone."""
        parts = [f"{key.removeprefix(f'{self.method}.')}-{_slug(value)}" for key, value in self.varied.items()]
        return "-".join([named(self.label) if self.label else self.method, *parts, f"seed-{self.seed}"])

    @property
    def cell(self) -> str:
        """What the runs that differ in the seed alone have in common, in words."""
        return ", ".join([self.label or self.method, *(f"{key}={literal(value)}" for key, value in self.varied.items())])

    @property
    def flat(self) -> dict[str, Value]:
        """The run's settings, with paths as a run makes them."""
        return {**self.settings, **absolute(self.settings), "method": self.method, "seed": self.seed}

    @property
    def pairs(self) -> tuple[str, ...]:
        """The settings as `-c` takes them."""
        return tuple(pair(key, value) for key, value in self.settings.items())


def named(label: str) -> str:
    """A label as part of a folder's name: letters, digits and single dashes."""
    return re.sub(r"[^a-z0-9.]+", "-", label.lower()).strip("-.")


def _slug(value: Value) -> str:
    """A value as part of a folder's name; where letters are lost, a checksum keeps it apart from others."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    plain = re.sub(r"[^\w.+-]+", "_", text, flags=re.ASCII)
    if plain == text and 0 < len(text) <= LONGEST_VALUE:
        return text
    return f"{plain[:LONGEST_VALUE]}-{zlib.crc32(text.encode()):08x}"


def read_sweep(path: Path) -> Sweep:
    """A sweep file, checked.

    Raises:
        SettingError: it cannot be read, or holds an unknown key, a wrong type, an empty list or the same value twice.
    """
    table = table_of(path, "sweep", KINDS)
    if table.get("clients", 0) < 0:
        raise SettingError(f"{path}: clients = {table['clients']} is out of range; it must be at least 0")
    seeds = values_of(path, "seeds", table.get("seeds", [0]), (int,))
    methods = values_of(path, "methods", table["methods"], (str,)) if "methods" in table else ()
    settings = flat(table.get("settings", {}), str(path))
    names = tuple(dict.fromkeys(METHODS.canonical(str(name)) for name in methods))
    grid = grid_of(path, table.get("grid", {}))
    return Sweep(names, tuple(int(seed) for seed in seeds), table.get("clients", 0), settings, grid)


def table_of(path: Path, what: str, kinds: Mapping[str, type]) -> dict[str, Any]:
    """What a TOML file of some kind (`what`) says, by the keys that it may have and their types.

    Raises:
        SettingError: it cannot be read, or holds an unknown key or a wrong type.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingError(f"the {what} {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SettingError(f"the {what} {path} is not valid TOML: {error}") from error
    check_kinds(table, kinds, str(path), f"a {what}")
    return table


def check_kinds(table: Mapping[str, Any], kinds: Mapping[str, type], where: str, what: str) -> None:
    """See that a table has known keys (`kinds`) of the right types alone.

    Raises:
        SettingError: it has others.
    """
    for key, value in table.items():
        if key not in kinds:
            raise SettingError(f"{where}: unknown key {key!r}{near(key, list(kinds))}; {what} has {', '.join(kinds)}")
        if type(value) is not kinds[key]:
            raise SettingError(f"{where}: {key} = {value!r} is {type(value).__name__}; it must be {kinds[key].__name__}")


def values_of(path: Path, key: str, values: Any, kinds: tuple[type, ...]) -> tuple[Any, ...]:
    """The values of a list, or a SettingError that names what is wrong with it."""
    names = " or ".join(kind.__name__ for kind in kinds)
    if not isinstance(values, list):
        raise SettingError(f"{path}: {key} = {values!r} is {type(values).__name__}; it must be a list of values")
    if not values:
        raise SettingError(f"{path}: {key} = [] is empty; give at least one value, or leave it out")
    for value in values:
        if type(value) not in kinds:
            raise SettingError(f"{path}: {key} holds {value!r}, which is {type(value).__name__}; it must be {names}")
        if values.count(value) > 1:
            raise SettingError(f"{path}: {key} holds {value!r} more than once; list it once")
    return tuple(values)


def grid_of(path: Path, table: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Value, ...]]:
    """Lists of values by dotted key."""
    found: dict[str, tuple[Value, ...]] = {}
    for name, value in table.items():
        if isinstance(value, dict):
            found.update(grid_of(path, value, f"{prefix}{name}."))
        else:
            found[f"{prefix}{name}"] = values_of(path, f"{prefix}{name}", value, (str, int, float, bool))
    return found


def jobs(sweep: Sweep, where: str) -> list[Job]:
    """Every run of a sweep, in order: methods, then the grid, then seeds.

    Raises:
        SettingError: a setting of a run cannot be, or a key of the grid concerns none of the methods; `where` names the file.
    """
    for key in (*sweep.settings, *sweep.grid):
        if key in ELSEWHERE:
            raise SettingError(f"{where}: {key} cannot stand in a sweep's file: {ELSEWHERE[key]}")
        if key in sweep.settings and key in sweep.grid:
            raise SettingError(f"{where}: {key} is set for all runs and stands in the grid; leave one of them out")
    found, given = [], {**sweep.settings, **sweep.grid}
    for method in sweep.methods:
        own = {key: values for key, values in sweep.grid.items() if concerns(key, method, given)}
        for combination in itertools.product(*own.values()):
            varied = dict(zip(own, combination, strict=True))
            found += [Job(method, seed, varied, {**sweep.settings, **varied}) for seed in sweep.seeds]
    try:
        for job in found:
            parse(job.flat)
            parse_overrides(job.pairs)
    except SettingError as error:
        raise SettingError(f"{where}: {error}") from error
    for key in sweep.grid:
        if not any(concerns(key, method, given) for method in sweep.methods):
            raise SettingError(
                f"{where}: {key} in the grid is not used by any of {', '.join(sweep.methods)}; remove it, or add its method"
            )
    return found

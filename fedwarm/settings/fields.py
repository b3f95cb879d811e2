"""Typed settings out of Flower's flat run config: each key is defined once, with default, meaning and range.

A group is a frozen dataclass whose fields are made by `setting`; its keys are `<prefix>.<field-in-kebab-case>`. Flower allows
str, int, float and bool values only, so there are no lists and no None: an empty string or 0 says "not set" where that is stated.
What else is to be known of a setting stands on its field, too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import field, fields
from functools import cache
from typing import Any, ClassVar, TypeVar

from fedwarm.settings.ranges import SettingError as SettingError
from fedwarm.settings.ranges import Value as Value
from fedwarm.settings.ranges import allowed as allowed
from fedwarm.settings.ranges import checked as checked
from fedwarm.settings.ranges import near as near
from fedwarm.settings.registry import Kind

G = TypeVar("G", bound="Group")
Rule = Callable[[Any], bool]
CHOSEN: Rule = bool  # of `when`: a run uses the setting where a component that it chooses lists it in its `uses`
Row = tuple[str, "type[Group]", "dataclasses.Field[Value]"]


class Group:
    """Base of the dataclasses that hold settings.

    Attributes:
        prefix: the part of the key before the dot.
        used: whether a run (see `relevance.Run`) uses the group at all; None: always.
    """

    prefix: ClassVar[str] = ""
    used: ClassVar[Rule | None] = None

    def __init_subclass__(cls, prefix: str = "", used: Rule | None = None) -> None:
        super().__init_subclass__()
        cls.prefix, cls.used = prefix, None if used is None else staticmethod(used)


def setting(
    default: Value, text: str, *, low: float | None = None, high: float | None = None,
    choices: tuple[str, ...] | Kind[Any] = (), path: bool = False, node: bool = False, neutral: bool = False,
    free: bool = False, when: Rule | None = None,
) -> Any:  # fmt: skip
    """A dataclass field that is a setting.

    Args:
        default: its value where none is given; its type is the setting's.
        text: what it means: effect and unit.
        low: least value, included.
        high: largest value, included.
        choices: the values there are, or the kind of component that is chosen.
        path: it may be a path: one that exists is made absolute before a run.
        node: a node may have a value of its own, in its node config.
        neutral: it does not change a run's numbers, so a resumed run may have another value.
        free: a resumed run may have another value, though it may change which replies count.
        when: whether a run (`relevance.Run`) uses it; None: as its group; CHOSEN: as the chosen components say.
    """
    bounds = {"low": low, "high": high, "choices": choices}
    facts = {"path": path, "node": node, "neutral": neutral, "free": free or neutral, "when": when}
    return field(default=default, metadata={"text": text, **bounds, **facts})


def keys(groups: tuple[type[Group], ...]) -> Iterator[Row]:
    """Every setting of the groups as (key, group, field)."""
    for group in groups:
        yield from _rows(group)  # type: ignore[arg-type]


@cache
def _rows(group: type[Group]) -> tuple[Row, ...]:
    told = [(f.name.replace("_", "-"), f) for f in fields(group) if "text" in f.metadata]  # type: ignore[arg-type]
    return tuple((f"{group.prefix}.{name}" if group.prefix else name, group, f) for name, f in told)


def read(group: type[G], flat: Mapping[str, Value]) -> G:
    """A group out of a flat run config, whose other keys are not looked at.

    Raises:
        SettingError: a value of another type or out of its range.
    """
    given: dict[str, Any] = {f.name: checked(key, flat[key], f) for key, _, f in keys((group,)) if key in flat}
    return group(**given)


def defaults(groups: tuple[type[Group], ...]) -> dict[str, Value]:
    """The default of every setting of the groups, by key."""
    return {key: f.default for key, _, f in keys(groups)}  # type: ignore[misc]

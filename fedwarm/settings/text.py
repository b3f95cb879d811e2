"""Settings as text: `key=value` pairs as `flwr run -c` takes them, TOML tables, and TOML back from values.

Texts are parsed here and not by `flwr.common.config.parse_config_args`, which drops what it does not understand without a
word and forgets a table's earlier keys when a second text names the same table.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedwarm.settings.fields import SettingError, Value

PAIR = re.compile(r"(\S+?)=('[^']*'|\"[^\"]*\"|\S+)")


def parse_overrides(texts: Sequence[str]) -> dict[str, Value]:
    """Flat overrides out of texts like `rounds=3 data.name="a b"`, or paths of .toml files; later ones win.

    Raises:
        SettingError: something that is no key=value pair, no TOML value, or no str, int, float or bool; a file that is none.
    """
    found: dict[str, Value] = {}
    for text in texts:
        if text.strip().endswith(".toml") and "=" not in text:
            found.update(flat(read_toml(Path(text.strip()).expanduser()), text.strip()))
        else:
            found.update(_pairs(text))
    return found


def _pairs(text: str) -> dict[str, Value]:
    if rest := PAIR.sub("", text).split():
        raise SettingError(f"cannot read {rest[0]!r} in {text!r}: write pairs with blanks between, e.g. seed=3 data.name='x'")
    found: dict[str, Value] = {}
    for key, value in PAIR.findall(text):
        try:
            table = tomllib.loads(f"{key} = {value}")
        except tomllib.TOMLDecodeError:
            if value in ("True", "False"):
                raise SettingError(f"cannot read {key}={value}: write {key}={value.lower()}") from None
            hint = f"{key}='{value}'" if value[0] not in "\"'" else f"{key}=1"
            raise SettingError(f"cannot read {key}={value}: values are TOML, and text stands in quotes, e.g. {hint}") from None
        found.update(flat(table, text))
    return found


def flat(table: Mapping[str, Any], where: str, prefix: str = "") -> dict[str, Value]:
    """Nested tables as dotted keys; a SettingError that names `where` for a value Flower's run config cannot hold."""
    found: dict[str, Value] = {}
    for name, value in table.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict):
            found.update(flat(value, where, f"{key}."))
        elif isinstance(value, (str, int, float)):
            found[key] = value
        else:
            raise SettingError(f"{key} = {value!r} in {where} must be a text, a number, true or false")
    return found


def literal(value: Value) -> str:
    """A value as TOML writes it.

    Raises:
        SettingError: no TOML value that Flower's run config can hold.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    raise SettingError(
        f"{value!r} is {type(value).__name__}; Flower's run config takes str, int, float and bool: give one of these"
    )


def table(values: Mapping[str, Value]) -> str:
    """The lines of a TOML table; keys are quoted, so that a dot in them is part of the key.

    Raises:
        SettingError: a value that Flower's run config cannot hold, by its key.
    """
    lines = []
    for key, value in values.items():
        try:
            lines.append(f"{literal(key)} = {literal(value)}\n")
        except SettingError as error:
            raise SettingError(f"{key} = {error}") from None
    return "".join(lines)


def pair(key: str, value: Value) -> str:
    """A setting as `-c` takes it.

    Raises:
        SettingError: a text with both kinds of quotes, which it cannot hold.
    """
    if isinstance(value, str) and "'" not in value and value.isprintable():
        return f"{key}='{value}'"
    if isinstance(value, str) and '"' in value:
        raise SettingError(f"{key} = {value!r} holds both kinds of quotes; leave one kind out")
    return f"{key}={literal(value)}"


def read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingError(f"cannot read {file}: {error.strerror}") from error
    except ValueError as error:
        raise SettingError(f"{file} is not valid TOML: {error}") from error

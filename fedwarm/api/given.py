"""Settings as Python gives them, and the command line's words turned into Python's."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedwarm.settings.fields import SettingError, Value
from fedwarm.settings.kinds import KINDS

Given = Mapping[str, Any]
FLAGS = ("fresh", "resume", "keep-going")
OPTION = re.compile(r"--(out|engine|seed|rounds|clients|workers|federation|fresh|resume|keep-going)\b")


def settings_of(given: Given | None, prefix: str = "") -> dict[str, Value]:
    """Flat settings out of a dictionary, whose tables may be nested: `{"data": {"name": "digits"}}` is `{"data.name": "digits"}`.

    A component may be given as the object: a function or class at the top level of a module is taken by its name.

    Raises:
        SettingError: a value that is no text, number, truth value or path, or an object that cannot be imported by name.
    """
    found: dict[str, Value] = {}
    if given is not None and not isinstance(given, Mapping):
        raise SettingError(f"settings are {type(given).__name__}; give a dictionary, e.g. {{'data.alpha': 0.1}}")
    for name, value in (given or {}).items():
        key, value = f"{prefix}{name}", value.item() if isinstance(value, np.generic) else value
        if isinstance(value, Mapping):
            found.update(settings_of(value, f"{key}."))
        elif isinstance(value, (str, int, float)):
            found[key] = value
        elif isinstance(value, Path):
            found[key] = str(value)
        elif callable(value) and key in {kind.key for kind in KINDS.values()}:
            found[key] = reference(value, key)
        else:
            raise SettingError(f"{key} = {value!r} is {type(value).__name__}; give a text, a number, True or False, or a path")
    return found


def reference(component: Callable[..., Any], key: str) -> str:
    """A function or class as `module:attribute`.

    Raises:
        SettingError: it is not at the top level of a module, e.g. a lambda.
    """
    module, name = getattr(component, "__module__", ""), getattr(component, "__qualname__", "")
    if not module or not all(part.isidentifier() for part in name.split(".")):
        what = repr(name) if name else f"this {type(component).__name__}"
        raise SettingError(
            f"{key}: {what} has no name to import it by; give 'module:NAME', or a function or class at the top level of a module"
        )
    return f"{module}:{name}"


def in_python(message: str) -> str:
    """A message that names options of the command line, with the arguments of `fedwarm.run` in their place."""
    return OPTION.sub(lambda found: found[1].replace("-", "_") + ("=True" if found[1] in FLAGS else ""), message)

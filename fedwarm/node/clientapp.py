"""`flwr-clientapp` as the federation's nodes start it for every message: Flower's own function, without the imports of a server.

Flower's command imports the whole SuperNode with it (SQLAlchemy, Alembic, uvicorn), which a client's process has no use for. Here
the package that holds the command is entered without its `__init__`. This file is run by its path and imports nothing of fedwarm,
so that an app which brings its own copy of fedwarm gets that one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGE, COMMAND = "flwr.supernode.cli", "flwr_clientapp"
NEEDED = ("torch", "numpy.random", "numpy.ma", "safetensors.torch", "torch.nested._internal.nested_tensor")
"""What clients' messages need besides Flower and is no part of an app."""


def lean() -> Any:
    """Flower's function behind `flwr-clientapp`, imported alone where that can be, else with all that Flower imports."""
    spec = find_spec(PACKAGE.rpartition(".")[0])
    bare = ModuleType(PACKAGE)
    bare.__path__ = [str(Path(place) / "cli") for place in (spec.submodule_search_locations or [])] if spec else []
    sys.modules[PACKAGE] = bare
    try:
        return getattr(import_module(f"{PACKAGE}.{COMMAND}"), COMMAND)
    except (ImportError, AttributeError):
        del sys.modules[PACKAGE]
        return getattr(import_module(PACKAGE), COMMAND)


def warm() -> Callable[[], Any]:
    """The same function, with all loaded that messages need: a template of processes calls it (see `warm.template`)."""
    run = lean()
    for name in NEEDED:
        with suppress(ImportError):
            import_module(name)
    return run  # type: ignore[no-any-return]


if __name__ == "__main__":
    sys.exit(lean()())

"""In a checkout each file is one module under both of its names: `fedwarm.strategies.fedavg` is `strategies.fedavg`.

A wheel has no `strategies` and `clients` beside `fedwarm`, and leaves this file out with the two that use it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module, util
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

PREFIX = "fedwarm."


class SameModule(MetaPathFinder, Loader):
    """Finds `fedwarm.<package>.<module>` as the module `<package>.<module>`."""

    def __init__(self, package: str) -> None:
        self.start = f"{PREFIX}{package}."
        self.own: dict[str, ModuleSpec | None] = {}

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        real = util.find_spec(name.removeprefix(PREFIX)) if name.startswith(self.start) else None
        return None if real is None else ModuleSpec(name, self, origin=real.origin)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(spec.name.removeprefix(PREFIX))
        self.own[spec.name] = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__ = self.own.pop(module.__spec__.name)  # importing has put the other name's in its place


def share(package: str) -> ModuleType:
    """The top-level package, which is from now on `fedwarm.<package>` too, with all its modules."""
    module = import_module(package)
    sys.modules[PREFIX + package] = module
    sys.meta_path.insert(0, SameModule(package))
    return module

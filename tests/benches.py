"""Modules of `benchmarks/`, which is no package: they import each other by name, as the commands there do."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


def loaded(patch: pytest.MonkeyPatch, name: str) -> Any:
    """A module by its name, found for as long as the patch lasts."""
    patch.syspath_prepend(str(FOLDER))
    return importlib.import_module(name)

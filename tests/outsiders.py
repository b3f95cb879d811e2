"""Packages of somebody else's, installed for a test by what an installer leaves: metadata with entry points, and a module."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fedwarm.settings import registry


@contextmanager
def installed(folder: Path, points: dict[str, dict[str, str]], code: str = "", package: str = "outsider") -> Iterator[None]:
    """A package with these entry points by group, and the module of its name with this code."""
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    sections = (f"[{group}]\n" + "".join(f"{n} = {v}\n" for n, v in named.items()) for group, named in points.items())
    (info / "entry_points.txt").write_text("\n".join(sections))
    (folder / f"{package}.py").write_text(code)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        registry.refresh()
        yield
    sys.modules.pop(package, None)
    registry.refresh()

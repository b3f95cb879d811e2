"""A Flower app that is a pyproject.toml alone: its parts are modules of installed packages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fedwarm.core.files import copy_file
from fedwarm.core.version import VERSION
from fedwarm.settings.fields import Value
from fedwarm.settings.kinds import KINDS
from fedwarm.settings.registry import is_reference, own_code
from fedwarm.settings.text import table

SERVER, CLIENT = "fedwarm.strategies.server_app:app", "fedwarm.clients.client_app:app"


def write_app(
    folder: Path,
    config: Mapping[str, Value],
    *,
    server: str = SERVER,
    client: str = CLIENT,
    name: str = "fedwarm-run",
) -> Path:
    """Write a Flower app that is a pyproject.toml: its code comes from installed packages.

    The code of components that the config names by `module:attribute` is copied, where it lies in the current folder.

    Args:
        folder: made if it does not exist; a pyproject.toml in it is replaced.
        config: the run config; overrides of a run can only name keys that stand here.
        server: module and attribute of the ServerApp.
        client: module and attribute of the ClientApp.
        name: letters, digits and hyphens, at most 32.

    Returns:
        the folder.
    """
    components = {"serverapp": server, "clientapp": client}
    project = {"name": name, "version": VERSION, "description": "A run of fedwarm's", "license": "MIT"}
    text = (
        f"[project]\n{table(project)}dependencies = []\n\n"
        f'[tool.flwr.app]\npublisher = "fedwarm"\n\n'
        f"[tool.flwr.app.components]\n{table(components)}\n"
        f"[tool.flwr.app.config]\n{table(config)}"
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")
    for kind in KINDS.values():
        name = str(config.get(kind.key, ""))
        if is_reference(name) and (code := own_code(name)) is not None:
            _copy(code, folder)
    return folder


def _copy(code: Path, folder: Path) -> None:
    """A module's file, or a package without what was compiled of it, into an app's folder."""
    if code.is_file():
        copy_file(code, folder / code.name)
        return
    for path in sorted(code.rglob("*.py")):
        to = folder / code.name / path.relative_to(code)
        to.parent.mkdir(parents=True, exist_ok=True)
        copy_file(path, to)

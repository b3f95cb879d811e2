"""A Flower app that is a pyproject.toml alone: its parts are modules of installed packages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fedwarm import __version__
from fedwarm.settings.fields import Value
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
    """Write a Flower app that is a pyproject.toml alone: its components come from installed packages, no code is copied.

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
    project = {"name": name, "version": __version__, "description": "A run of fedwarm's", "license": "MIT"}
    text = (
        f"[project]\n{table(project)}dependencies = []\n\n"
        f'[tool.flwr.app]\npublisher = "fedwarm"\n\n'
        f"[tool.flwr.app.components]\n{table(components)}\n"
        f"[tool.flwr.app.config]\n{table(config)}"
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")
    return folder

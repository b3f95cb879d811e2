"""Grids between a run's server and its engine's own grid, for tests: what the server sees is theirs to say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from strategies import server_app


class Through:
    """A grid that passes everything on to another."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid

    def __getattr__(self, name: str) -> Any:
        return getattr(self.grid, name)


def served(through: Callable[[Grid], Through]) -> ServerApp:
    """The project's ServerApp on the grid that is put before its own."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        server_app.app(cast(Grid, through(grid)), context)

    return app

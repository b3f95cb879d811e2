"""The local engine: clients run in this process or in worker processes of this machine, without a daemon and without Ray."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fedwarm.engines import Asked, Engine
from fedwarm.flower.app import FlowerApp, read_app
from fedwarm.flower.writing import CLIENT, SERVER
from fedwarm.settings.fields import Value


class Local(Engine):
    """This machine, in this process or in workers."""

    def title(self, asked: Asked) -> str:
        return f"{asked.clients} clients on the local engine"

    def run(self, settings: Mapping[str, Value], asked: Asked) -> None:
        self._run(FlowerApp(SERVER, CLIENT, dict(settings), None), {}, asked)

    def run_app(self, folder: Path, overrides: Mapping[str, Value], asked: Asked) -> None:
        self._run(read_app(folder), overrides, asked)

    def _run(self, app: FlowerApp, overrides: Mapping[str, Value], asked: Asked) -> None:
        from fedwarm.engines.local.run import run_local

        run_local(app, overrides, clients=asked.clients, workers=asked.workers)


COMPONENT = Local()

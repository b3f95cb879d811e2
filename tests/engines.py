"""Engines for tests: the local one, whose messages are heard as they go."""

from __future__ import annotations

from collections.abc import Mapping

from fedwarm.engines import Asked, Engine
from fedwarm.engines.local.run import Listener, run_local
from fedwarm.flower.app import FlowerApp
from fedwarm.flower.writing import CLIENT, SERVER
from fedwarm.settings.fields import Value


class Heard(Engine):
    """The local engine in this process; `hear` may end the run."""

    def __init__(self, hear: Listener) -> None:
        self.hear = hear

    def run(self, settings: Mapping[str, Value], asked: Asked) -> None:
        run_local(FlowerApp(SERVER, CLIENT, dict(settings), None), {}, clients=asked.clients, workers=1, listen=self.hear)

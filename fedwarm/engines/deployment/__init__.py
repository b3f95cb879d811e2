"""The deployment engine: Flower's SuperLink and SuperNodes, here or elsewhere (`fedwarm federation`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fedwarm.engines import Asked, Engine
from fedwarm.settings.fields import Value


class Deployment(Engine):
    """A federation of real nodes (`fedwarm federation`)."""

    real = True
    takes = ("--federation", "--keep-going")

    def clients(self, asked: Asked) -> int:
        from fedwarm.engines.deployment.engine import ready
        from fedwarm.engines.deployment.following import say

        if asked.workers:
            say(f"--workers {asked.workers} starts nothing here: each node has processes of its own")
        return len(ready(asked.federation, asked.clients).nodes)

    def words(self, asked: Asked) -> str:
        from fedwarm.federation.settings import flag

        return flag(asked.federation)

    def here(self, asked: Asked) -> bool:
        from fedwarm.federation.settings import load

        return not load(asked.federation).remote

    def title(self, asked: Asked) -> str:
        return f"{asked.clients} clients on federation {asked.federation}"

    def run(self, settings: Mapping[str, Value], asked: Asked) -> None:
        from fedwarm.engines.deployment.engine import run_here

        run_here(asked.federation, expecting(settings, asked), asked.again, asked.keep_going)

    def run_app(self, folder: Path, overrides: Mapping[str, Value], asked: Asked) -> None:
        from fedwarm.engines.deployment.engine import run_deployment
        from fedwarm.federation.settings import load

        run_deployment(load(asked.federation), folder.absolute(), overrides)


def expecting(settings: Mapping[str, Value], asked: Asked) -> Mapping[str, Value]:
    """The settings, by which a run on sites of their own waits for those that are online and not for all that may come."""
    from fedwarm.federation.settings import load

    key = "nodes.expected"
    return {**settings, key: asked.clients} if load(asked.federation).outside and not settings.get(key) else settings


COMPONENT = Deployment()

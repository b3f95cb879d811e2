"""A Flower app that makes several runs of fedwarm's in one run of an engine, on the same nodes: its start is paid once.

It stands alone, as the app has a copy of it. Its config is `runs`, the settings of each run by a name, as JSON. Server and
clients are fedwarm's own; a message says of which run it is, which its client takes off.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedwarm.catalogue import parse
from fedwarm.clients import client_app
from fedwarm.flower.writing import write_app
from fedwarm.settings.fields import Value
from fedwarm.strategies import server_app

MARK = "series"
server = ServerApp()
client = ClientApp()


def series_app(folder: Path, runs: Mapping[str, Mapping[str, Value]]) -> Path:
    """The app in a new folder; each run's own folder lies beside it, under its name."""
    whole = {name: parse({**own, "out": str(folder.parent / name)}).flat() for name, own in runs.items()}
    write_app(folder, {"runs": json.dumps(whole)}, server="series:server", client="series:client")
    shutil.copy(__file__, folder / "series.py")
    return folder


class Named:
    """A grid whose messages say of which run they are."""

    def __init__(self, grid: Grid, name: str) -> None:
        self._grid, self._name = grid, name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._grid, name)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return self._grid.push_messages([self._marked(message) for message in messages])

    def _marked(self, message: Message) -> Message:
        message.content[MARK] = ConfigRecord({"run": self._name})
        return message


def of(context: Context, name: str) -> Context:
    """The context of one of the runs."""
    return replace(context, run_config=json.loads(str(context.run_config["runs"]))[name])


@server.main()
def main(grid: Grid, context: Context) -> None:
    for name in json.loads(str(context.run_config["runs"])):
        server_app.app(cast(Grid, Named(grid, name)), of(context, name))


def handle(message: Message, context: Context) -> Message:
    name = str(message.content.config_records.pop(MARK)["run"])
    return client_app.app(message, of(context, name))


client.query()(handle)
client.train()(handle)
client.evaluate()(handle)

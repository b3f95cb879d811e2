"""`fedwarm node`: run, alive."""

from __future__ import annotations

from typing import Annotated

import typer

from fedwarm.run.help import App
from fedwarm.run.node.heartbeat import WITHIN_SECONDS
from fedwarm.run.terminal import put

app = App("On a site's own machine: run its SuperNode, and ask whether the SuperLink still hears it.")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def run(context: typer.Context) -> None:
    """Run Flower's SuperNode; takes all options of `flower-supernode`, and tells `fedwarm node alive` of its heartbeats.

    Where the SuperLink no longer hears it, it ends with exit code 1, so that a restart policy can act.
    """
    from fedwarm.run.node.supernode import main

    main(context.args)


@app.command()
def alive(
    within: Annotated[float, typer.Option(min=1.0, help="most seconds since a heartbeat was accepted")] = WITHIN_SECONDS,
    home: Annotated[str, typer.Option(help="FLWR_HOME of the SuperNode; default: this one's own")] = "",
) -> None:
    """Tell whether the SuperLink hears the SuperNode that runs here, as a container's health check does: exit code 0 or 1."""
    from fedwarm.run.failures import RunError
    from fedwarm.run.node.heartbeat import look, place

    sign = look(place(home))
    if not sign.alive(within):
        raise RunError(sign.told(within))
    put(sign.told(within))

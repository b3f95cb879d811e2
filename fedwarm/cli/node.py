"""`fedwarm node`: check, run, alive."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from fedwarm.cli.help import App
from fedwarm.core.terminal import flush, put
from fedwarm.node.heartbeat import WITHIN_SECONDS

app = App("On a site's machine: join by a kit, check it, run its SuperNode, and test its connection to the SuperLink.")


@app.command()
def join(
    kit: Annotated[Path, typer.Argument(help="the site's kit, a zip file")],
    folder: Annotated[Path | None, typer.Option(help="folder of the site; default: the site's name, here")] = None,
    data: Annotated[Path | None, typer.Option(help="the folder of the site's data; default as before")] = None,
    fingerprint: Annotated[str, typer.Option(help="the CA's fingerprint, as you were told it by another way")] = "",
) -> None:
    """Unpack a kit and make the site's private key; print the line that lets the site in. A newer kit goes over an older."""
    from fedwarm.node.kit import join as unpack
    from fedwarm.node.kit import skew

    told, line = unpack(kit, folder, data, fingerprint)
    place = folder or Path(told.site)
    put(f"{place}: {told.site}, client {told.partition} of federation {told.federation} at {told.superlink}")
    put(f"  CA {told.fingerprint}")
    if wrong := skew(told):
        put(f"  {wrong}")
    put(f"send this line to whoever runs the federation (the private key, {place / 'key'}, stays here):")
    put(line)


@app.command()
def check(
    superlink: Annotated[str, typer.Option(metavar="HOST:PORT", help="the SuperLink's address, as the SuperNode takes it")] = "",
    ca: Annotated[Path | None, typer.Option(help="the federation's ca.crt (--root-certificates of the SuperNode)")] = None,
    key: Annotated[Path | None, typer.Option(help="the node's private key; its public half is KEY.pub")] = None,
    data: Annotated[Path | None, typer.Option(help="the folder of the site's pictures")] = None,
    kit: Annotated[Path | None, typer.Option(help="the site's folder, in place of --superlink, --ca, --key and --data")] = None,
    run_config: Annotated[
        list[str] | None,
        typer.Option("-c", "--run-config", help="settings of the run, by which the data are read and a model is trained"),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.0, help="longest time in seconds to train the run's model on the data; 0: not at all")
    ] = 20.0,
) -> None:
    """Check everything that a node needs, one line each: ok, a warning, or a fault and how to fix it.

    The last line is `ready` with exit code 0, or exit code 2. What is not given is not looked at. Nothing is sent but questions.
    """
    from fedwarm.catalogue import parse
    from fedwarm.data.settings import Data
    from fedwarm.node.checks import Site, look, verdict
    from fedwarm.node.finding import FAULT, Finding
    from fedwarm.settings.text import parse_overrides

    config = parse(parse_overrides(run_config or []))

    def trial(found: Data) -> Iterator[Finding]:
        from fedwarm.launch.trial import look_at_training

        return look_at_training(config, found, seconds)

    found = []
    for each in look(Site(superlink, ca, key, data, config.of(Data), kit, trial)):
        put(each.line)
        flush()
        found.append(each)
    put(verdict(found))
    if any(each.level == FAULT for each in found):
        raise typer.Exit(2)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def run(context: typer.Context) -> None:
    """Run Flower's SuperNode with any options of `flower-supernode`; `fedwarm node alive` then knows its heartbeats.

    `--kit FOLDER` takes all that the site's kit says, `--data FOLDER` after it other data than `join` was told.
    Where the SuperLink no longer hears it, it ends with exit code 1, so that a restart policy can act.
    On Linux a process that has torch loaded answers its messages; with FEDWARM_WARM=0 in the environment each message loads it.
    """
    from fedwarm.node.starting import started_with
    from fedwarm.node.supernode import main

    if {"--help", "-h"} & {*context.args}:  # Flower's own follows
        put(f"{context.command.help}\n")
    main(started_with(context.args))


@app.command()
def alive(
    within: Annotated[
        float, typer.Option(min=1.0, help="longest time in seconds since the last accepted heartbeat")
    ] = WITHIN_SECONDS,
    home: Annotated[str, typer.Option(help="FLWR_HOME of the SuperNode; default: this one's own")] = "",
) -> None:
    """Exit with code 0 if the SuperLink hears the SuperNode that runs here, else with 1; for health checks of containers."""
    from fedwarm.core.failures import RunError
    from fedwarm.node.heartbeat import look, place

    sign = look(place(home))
    if not sign.alive(within):
        raise RunError(sign.told(within))
    put(sign.told(within))

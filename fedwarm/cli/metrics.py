"""`fedwarm federation metrics`: a federation and its runs for a Prometheus server."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from fedwarm.cli.options import Named
from fedwarm.core.terminal import flush, put

DAY_SECONDS = 86400.0


def metrics(
    federation: Named = "default",
    runs: Annotated[Path, typer.Option(help="folder below which runs lie", envvar="FEDWARM_RUNS")] = Path("runs"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="port; 0: a free one")] = 9464,
    host: Annotated[str, typer.Option(help="address; whoever reaches it reads names of sites and runs")] = "127.0.0.1",
) -> None:
    """Serve Prometheus metrics until Ctrl-C: nodes online, rounds, replies, failures by kind, bytes, seconds, epsilon."""
    from fedwarm.federation.metrics import registry_of

    registry = registry_of(federation, runs)
    from prometheus_client import start_http_server

    server, thread = start_http_server(port, host, registry)
    put(f"metrics of federation {federation} and of runs below {runs}: http://{host}:{server.server_port}/metrics")
    flush()
    try:
        while thread.is_alive():
            time.sleep(DAY_SECONDS)
    finally:
        server.shutdown()

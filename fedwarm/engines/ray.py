"""The Ray engine: `flwr run` on a SuperLink that lives for one run, in Flower's simulation of the clients.

A managed local SuperLink of Flower's serves whoever comes next from the folder, environment and ports of whoever came first. So
each run here gets its own: a temporary FLWR_HOME, a free port, an empty working directory (Ray puts the daemon's directory on the
clients' path), and an end that leaves no process and no file behind.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from fedwarm.core.capacity import workers_for
from fedwarm.core.failures import RunError
from fedwarm.core.logs import restyled
from fedwarm.core.terminal import say
from fedwarm.engines import Asked, Engine
from fedwarm.flower.outcome import TAIL_LINES
from fedwarm.flower.processes import ending_on_signals, superlink
from fedwarm.flower.submitting import submit
from fedwarm.flower.writing import write_app
from fedwarm.settings.fields import SettingError, Value


def run_ray(
    app_folder: Path,
    overrides: Mapping[str, Value],
    *,
    clients: int,
    workers: int = 0,
    stream: Callable[[str], None] | None = None,
    timeout_seconds: float | None = None,
) -> None:
    """Run a Flower app in Flower's Ray simulation, and return when it is done and everything it started has ended.

    Its clients see no GPU.

    Args:
        app_folder: the app; `write_app` makes one of installed components. Paths in its config must be absolute.
        overrides: run config values to replace; their keys must stand in the app's config.
        clients: number of simulated SuperNodes.
        workers: so many work at once; 0: as many as cores and memory are good for. A cluster (RAY_ADDRESS) has its own number.
        stream: called with each line of the run's log as it comes.
        timeout_seconds: how long the run may take; None: as long as it does.

    Raises:
        SettingError: no client, no app, or an override that the app does not know.
        RunError: Ray is missing, the run failed, every client failed, or it took too long; with the last lines of the log.
    """
    if clients < 1:
        raise SettingError(f"clients = {clients} is too few; it must be at least 1")
    if importlib.util.find_spec("ray") is None:
        raise RunError("the ray engine needs Ray; pip install 'flwr[simulation]'")
    federation: dict[str, Value] = {
        "num-supernodes": clients,
        "client-resources-num-cpus": 1,
        "client-resources-num-gpus": 0.0,
    }
    if not os.environ.get("RAY_ADDRESS"):
        federation["init-args-num-cpus"] = workers_for(clients, workers)
    with (
        ending_on_signals(),
        tempfile.TemporaryDirectory(prefix="fedwarm-", ignore_cleanup_errors=True) as home,
        superlink(Path(home), simulation=True) as (daemon, _),
    ):
        outcome = submit(
            app_folder, overrides, env=daemon.env, federation=federation, stream=stream, timeout_seconds=timeout_seconds
        )
    complaint = outcome.complaint()
    if complaint is not None:
        raise RunError(complaint, outcome.lines[-TAIL_LINES:])


class Ray(Engine):
    """Flower's simulation of the clients, on Ray."""

    needs = ("ray",)

    def run(self, settings: Mapping[str, Value], asked: Asked) -> None:
        with tempfile.TemporaryDirectory(prefix="fedwarm-") as name:
            self.run_app(write_app(Path(name) / "app", settings), {}, asked)

    def run_app(self, folder: Path, overrides: Mapping[str, Value], asked: Asked) -> None:
        run_ray(
            folder.absolute(), overrides, clients=asked.clients, workers=asked.workers, stream=lambda line: say(restyled(line))
        )


COMPONENT = Ray()

"""The Ray engine: `flwr run` on a SuperLink that lives for one run, in Flower's simulation of the clients.

A managed local SuperLink of Flower's serves whoever comes next from the folder, environment and ports of whoever came first. So
each run here gets its own: a temporary FLWR_HOME, a free port, an empty working directory (Ray puts the daemon's directory on the
clients' path), and an end that leaves no process and no file behind.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import tempfile
import threading
import time
import tomllib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedwarm import __version__
from fedwarm.core.capacity import workers_for
from fedwarm.flower.processes import RunFailed, ending_on_signals, executable, plain, superlink
from fedwarm.settings.fields import SettingError, Value, near

__all__ = ["Outcome", "RunFailed", "run_ray", "submit", "write_app"]

KEPT_LINES = 10_000
TAIL_LINES = 50
_ERROR = re.compile(r"(?:^|<class ')((?:\w+\.)*\w*(?:Error|Exception)\w*)(?:: |'>:<')(.+)")
_REPLY_END = "'>"
WIDE = {"COLUMNS": "1000"}
STATUS_SECONDS = 60.0
_RECEIVED = re.compile(r"aggregate_train: Received (\d+) results and (\d+) failures")


@dataclass(frozen=True)
class Outcome:
    """How a run ended: Flower's status (`finished:completed`), its detail, and the run's log without colours."""

    status: str
    details: str
    lines: tuple[str, ...]

    def complaint(self) -> str | None:
        """Why the run counts as failed, in one line, or None.

        Flower's own strategies complete a run in which no client ever succeeded, with the model it began with; that is a failure.
        """
        first = _first_error(self.lines)
        if self.status != "finished:completed":
            told = not first or first.split(": ", 1)[1] in self.details
            return f"the run ended as {self.status}: {self.details}" + ("" if told else f"; first error in the log: {first}")
        received = [tuple(map(int, found.groups())) for line in self.lines if (found := _RECEIVED.search(line))]
        if received and all(results == 0 and failures > 0 for results, failures in received):
            return f"every client failed in every round; first error in the log: {first or 'none'}"
        return None


def _first_error(lines: Sequence[str]) -> str:
    found = next(filter(None, map(_ERROR.search, lines)), None)
    return f"{found[1]}: {found[2].removesuffix(_REPLY_END)}" if found else ""


def toml_table(table: Mapping[str, Value]) -> str:
    """The lines of a TOML table of plain values; keys are quoted, so that a dot in them is part of the key."""
    return "".join(f"{_toml_string(key)} = {_toml_value(key, value)}\n" for key, value in table.items())


def _toml_string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _toml_value(key: str, value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return _toml_string(value)
    raise SettingError(f"{key} = {value!r} is {type(value).__name__}; Flower's run config takes str, int, float and bool")


def write_app(
    folder: Path,
    config: Mapping[str, Value],
    *,
    server: str = "fedwarm.strategies.server_app:app",
    client: str = "fedwarm.clients.client_app:app",
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
        f"[project]\n{toml_table(project)}dependencies = []\n\n"
        f'[tool.flwr.app]\npublisher = "fedwarm"\n\n'
        f"[tool.flwr.app.components]\n{toml_table(components)}\n"
        f"[tool.flwr.app.config]\n{toml_table(config)}"
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")
    return folder


def app_config(app_folder: Path) -> dict[str, Any]:
    """The run config of a Flower app folder, with nested tables as dotted keys.

    Raises:
        SettingError: there is no readable pyproject.toml.
    """
    try:
        project = tomllib.loads((app_folder / "pyproject.toml").read_text(encoding="utf-8"))
        return _flat(project["tool"]["flwr"]["app"].get("config", {}))
    except OSError:
        raise SettingError(f"{app_folder} is no Flower app: it has no pyproject.toml") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingError(f"{app_folder}/pyproject.toml cannot be read: {error}") from None
    except KeyError:
        raise SettingError(f"{app_folder} is no Flower app: its pyproject.toml has no [tool.flwr.app]") from None


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def submit(
    app_folder: Path,
    overrides: Mapping[str, Value],
    *,
    env: Mapping[str, str],
    federation: Mapping[str, Value] | None = None,
    stream: Callable[[str], None] | None = None,
    timeout_seconds: float,
) -> Outcome:
    """Run an app on the default SuperLink of `env` (its FLWR_HOME), follow its log to the end and ask how it ended.

    Args:
        app_folder: a Flower app.
        overrides: run config values to replace.
        env: the environment of the `flwr` command.
        federation: settings of a simulation, such as `num-supernodes`.
        stream: called with each line of the log as it comes.
        timeout_seconds: how long the run may take.

    Raises:
        SettingError: an override names no key of the app.
        RunFailed: the run was refused, was not finished in time, or its SuperLink went away.
    """
    known = list(app_config(app_folder))
    for key in overrides:
        if key not in known:
            raise SettingError(f"unknown setting {key!r} of the app {app_folder}{near(key, known)}")
    command = [executable("flwr"), "run", str(app_folder.resolve()), "--stream"]
    if overrides:
        path = Path(env["FLWR_HOME"]) / "overrides.toml"
        path.write_text(toml_table(overrides), encoding="utf-8")
        command += ["--run-config", str(path)]
    if federation:
        command += ["--federation-config", " ".join(f"{key}={_toml_value(key, value)}" for key, value in federation.items())]
    code, lines = _follow(command, env, stream, timeout_seconds)
    if code != 0:
        reason = " ".join(lines[lines.index("Error") + 1 :]) if "Error" in lines else f"exit code {code}"
        raise RunFailed(f"flwr run did not take {app_folder}: {reason}", lines[-TAIL_LINES:])
    status, details = _status(env, lines)
    return Outcome(status, details, tuple(lines))


def _unboxed(line: str) -> str:
    """The line without the frame that the command line draws around an error."""
    return line.strip("╭╮╰╯│─ ") if line.startswith(("╭", "│", "╰")) else line


def _follow(
    command: list[str], env: Mapping[str, str], stream: Callable[[str], None] | None, timeout_seconds: float
) -> tuple[int, list[str]]:
    """Run a command, pass on its lines as they come; its exit code and its last lines."""
    lines: deque[str] = deque(maxlen=KEPT_LINES)
    late = threading.Event()
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**env, **WIDE},
        start_new_session=True,
        encoding="utf-8",
        errors="replace",
    )

    def expire() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(timeout_seconds, expire)
    timer.daemon = True
    timer.start()
    try:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                lines.append(_unboxed(plain(line).rstrip()))
                if stream is not None:
                    stream(lines[-1])
        code = process.wait()
    finally:
        timer.cancel()
        process.kill()
        process.wait()
    if late.is_set():
        raise RunFailed(f"the run was not finished after {timeout_seconds:g} seconds", list(lines)[-TAIL_LINES:])
    return code, list(lines)


def _status(env: Mapping[str, str], lines: list[str]) -> tuple[str, str]:
    """Status and detail of the latest run on the default SuperLink, once it has finished."""
    end, command = time.monotonic() + STATUS_SECONDS, [executable("flwr"), "list", "--format", "json"]
    while True:
        listed = subprocess.run(command, env=dict(env), stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8")
        runs = json.loads(listed.stdout).get("runs", []) if listed.returncode == 0 else []
        if not runs:
            raise RunFailed("the SuperLink of the run went away before the run had ended", lines[-TAIL_LINES:])
        run = max(runs, key=lambda each: str(each["pending-at"]))
        if str(run["status"]).startswith("finished") or time.monotonic() > end:
            return str(run["status"]), str(run["status-details"])


def run_ray(
    app_folder: Path,
    overrides: Mapping[str, Value],
    *,
    clients: int,
    workers: int = 0,
    client_gpus: float = 0.0,
    stream: Callable[[str], None] | None = None,
    timeout_seconds: float = 3600.0 * 12,
) -> None:
    """Run a Flower app in Flower's Ray simulation, and return when it is done and everything it started has ended.

    Args:
        app_folder: the app; `write_app` makes one of installed components. Paths in its config must be absolute.
        overrides: run config values to replace; their keys must stand in the app's config.
        clients: number of simulated SuperNodes.
        workers: so many work at once; 0: as many as cores and memory are good for. A cluster (RAY_ADDRESS) has its own number.
        client_gpus: share of a GPU that a client takes; at 0 clients see no GPU.
        stream: called with each line of the run's log as it comes.
        timeout_seconds: how long the run may take.

    Raises:
        SettingError: no client, no app, or an override that the app does not know.
        RunFailed: Ray is missing, the run failed, every client failed, or it took too long; with the last lines of the log.
    """
    if clients < 1:
        raise SettingError(f"clients = {clients} is too few; it must be at least 1")
    if importlib.util.find_spec("ray") is None:
        raise RunFailed("the ray engine needs Ray; pip install 'flwr[simulation]'")
    federation: dict[str, Value] = {
        "num-supernodes": clients,
        "client-resources-num-cpus": 1,
        "client-resources-num-gpus": float(client_gpus),
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
        raise RunFailed(complaint, outcome.lines[-TAIL_LINES:])

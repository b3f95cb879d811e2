"""An app handed to a SuperLink by `flwr run`, its log followed to the end."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from fedwarm.core.failures import RunError
from fedwarm.flower.app import refuse_unknown
from fedwarm.flower.outcome import KEPT_LINES, TAIL_LINES, Outcome
from fedwarm.flower.processes import executable, plain
from fedwarm.settings.fields import Value
from fedwarm.settings.text import literal, table

WIDE = {"COLUMNS": "1000"}
STATUS_SECONDS = 60.0


def submit(
    app_folder: Path,
    overrides: Mapping[str, Value],
    *,
    env: Mapping[str, str],
    federation: Mapping[str, Value] | None = None,
    stream: Callable[[str], None] | None = None,
    timeout_seconds: float | None,
) -> Outcome:
    """Run an app on the default SuperLink of `env` (its FLWR_HOME), follow its log to the end and ask how it ended.

    Args:
        app_folder: a Flower app.
        overrides: run config values to replace.
        env: the environment of the `flwr` command.
        federation: settings of a simulation, such as `num-supernodes`.
        stream: called with each line of the log as it comes.
        timeout_seconds: how long the run may take; None: as long as it does.

    Raises:
        SettingError: an override names no key of the app.
        RunError: the run was refused, was not finished in time, or its SuperLink went away.
    """
    refuse_unknown(app_folder, overrides)
    command = [executable("flwr"), "run", str(app_folder.resolve()), "--stream"]
    if overrides:
        path = Path(env["FLWR_HOME"]) / "overrides.toml"
        path.write_text(table(overrides), encoding="utf-8")
        command += ["--run-config", str(path)]
    if federation:
        command += ["--federation-config", " ".join(f"{key}={literal(value)}" for key, value in federation.items())]
    code, lines = _follow(command, env, stream, timeout_seconds)
    if code != 0:
        reason = " ".join(lines[lines.index("Error") + 1 :]) if "Error" in lines else f"exit code {code}"
        raise RunError(f"flwr run did not take {app_folder}: {reason}", lines[-TAIL_LINES:])
    status, details = _status(env, lines)
    return Outcome(status, details, tuple(lines))


def _unboxed(line: str) -> str:
    """The line without the frame that the command line draws around an error."""
    return line.strip("╭╮╰╯│─ ") if line.startswith(("╭", "│", "╰")) else line


def _follow(
    command: list[str], env: Mapping[str, str], stream: Callable[[str], None] | None, timeout_seconds: float | None
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

    timer = threading.Timer(timeout_seconds or 0.0, expire)
    timer.daemon = True
    if timeout_seconds is not None:
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
        raise RunError(f"the run was not finished after {timeout_seconds:g} seconds", list(lines)[-TAIL_LINES:])
    return code, list(lines)


def _status(env: Mapping[str, str], lines: list[str]) -> tuple[str, str]:
    """Status and detail of the latest run on the default SuperLink, once it has finished."""
    end, command = time.monotonic() + STATUS_SECONDS, [executable("flwr"), "list", "--format", "json"]
    while True:
        listed = subprocess.run(command, env=dict(env), stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8")
        runs = json.loads(listed.stdout).get("runs", []) if listed.returncode == 0 else []
        if not runs:
            raise RunError("the SuperLink of the run went away before the run had ended", lines[-TAIL_LINES:])
        run = max(runs, key=lambda each: str(each["pending-at"]))
        if str(run["status"]).startswith("finished") or time.monotonic() > end:
            return str(run["status"]), str(run["status-details"])

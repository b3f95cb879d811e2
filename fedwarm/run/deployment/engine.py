"""A run handed to a federation, followed to its end, and stopped by Ctrl-C as on the other engines; it can be resumed."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from fedwarm.config import SettingError, Value, near
from fedwarm.run.deployment.following import Following, say
from fedwarm.run.family import lives
from fedwarm.run.federation.control import Control, control
from fedwarm.run.federation.processes import dead, living
from fedwarm.run.federation.settings import CONNECTION, SUPEREXEC, SUPERLINK, Federation, flag, load
from fedwarm.run.ray import TAIL_LINES, Outcome, app_config, toml_table, write_app
from fedwarm.run.superlink import RunFailed, ending_on_signals, environment, executable, plain

POLL_SECONDS, STOP_SECONDS = 0.2, 30.0


def ready(said: str, clients: int = 0) -> Federation:
    """The federation, up; nodes that are not there are named.

    Raises:
        SettingError: there is none, its servers do not run, or it has another number of nodes than `clients`.
    """
    federation = load(said)
    missing = dead(federation)
    if {SUPERLINK, SUPEREXEC} & set(missing):
        ended = ", ".join(missing)
        raise SettingError(f"federation {said!r} is not up ({ended} ended); `fedwarm federation up{flag(said)}` comes first")
    if clients not in (0, len(federation.nodes)):
        raise SettingError(f"--clients {clients}, but federation {said!r} has {len(federation.nodes)} nodes; leave it out")
    if missing:
        say(f"{', '.join(missing)} ended; `fedwarm federation up{flag(said)}` brings back what is missing")
    return federation


def run_deployment(federation: Federation, app_folder: Path, overrides: Mapping[str, Value]) -> None:
    """Run an app on a federation and return when it is done.

    Args:
        federation: up.
        app_folder: a Flower app; paths in its config must be absolute.
        overrides: run config values to replace; the SuperLink tells them to whoever asks for the federation's status.

    Raises:
        SettingError: an override names no key of the app.
        RunFailed: the run was refused, failed, was stopped, or its SuperLink stayed away; with the last lines of the log.
    """
    known = list(app_config(app_folder))
    for key in overrides:
        if key not in known:
            raise SettingError(f"unknown setting {key!r} of the app {app_folder}{near(key, known)}")
    before = {each.pid for each in serverapps(federation)}
    run_id = submit(federation, app_folder, overrides)
    say(f"run {run_id} on federation {federation.name}")
    with control(federation) as link, ending_on_signals():
        following = Following(federation, link, run_id)
        try:
            ended = following.to_the_end()
        except (KeyboardInterrupt, SystemExit):
            _stop(federation, link, run_id, before)
            raise
    lines = tuple(following.lines)
    complaint = Outcome(ended.status, ended.details, lines).complaint()
    if complaint is not None:
        raise RunFailed(complaint, lines[-TAIL_LINES:])


def run_here(said: str, config: Mapping[str, Value]) -> None:
    """Run fedwarm's own app with these settings, all of them, on a federation that is up."""
    federation = load(said)
    with tempfile.TemporaryDirectory(prefix="fedwarm-") as name:
        folder = write_app(Path(name) / "app", config)
        run_deployment(federation, folder, {key: config[key] for key in ("method", "out") if key in config})


def submit(federation: Federation, app_folder: Path, overrides: Mapping[str, Value]) -> int:
    """Hand an app to the SuperLink by `flwr run`; the run's id.

    Raises:
        RunFailed: it was not taken.
    """
    command = [executable("flwr"), "run", str(app_folder.resolve()), CONNECTION, "--format", "json"]
    env = environment(federation.flower, federation.folder / "bytecode", [federation.reach])
    with tempfile.NamedTemporaryFile("w", suffix=".toml", encoding="utf-8") as file:
        if overrides:
            file.write(toml_table(overrides))
            file.flush()
            command += ["--run-config", file.name]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace", env=env)
    told = plain(done.stdout)
    try:
        answer = json.loads(told[told.index("{") :])
        if answer["success"]:
            return int(answer["run-id"])
        why = str(answer["error-message"])
    except (ValueError, KeyError, TypeError):
        why = told + done.stderr
    why = why.strip() or f"exit code {done.returncode}"
    raise RunFailed(f"the SuperLink of federation {federation.name!r} did not take {app_folder}: {why}")


def serverapps(federation: Federation) -> list[psutil.Process]:
    """The ServerApps that run now."""
    head, found = living(federation, SUPEREXEC), []
    with suppress(psutil.Error):
        for each in head.children(recursive=True) if head is not None else []:
            with suppress(psutil.Error):
                if lives(each) and any(Path(word).name == "flwr-serverapp" for word in each.cmdline()):
                    found.append(each)
    return found


def _stop(federation: Federation, link: Control, run_id: int, before: set[int]) -> None:
    """Stop a run, and wait until its ServerApp writes no more: it is the one that was not there before the run."""
    try:
        link.stop(run_id)
    except RuntimeError as error:
        say(f"run {run_id} could not be stopped ({error}); `fedwarm federation down` ends it")
        return
    say(f"run {run_id} is stopped; waiting for its ServerApp to end")
    end = time.monotonic() + STOP_SECONDS
    while time.monotonic() < end:
        if not [each for each in serverapps(federation) if each.pid not in before]:
            return
        time.sleep(POLL_SECONDS)
    say(f"the ServerApp of run {run_id} still runs; resume the run when it has ended")

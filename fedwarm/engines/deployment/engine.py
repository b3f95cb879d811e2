"""A run handed to a federation, followed to its end, and stopped by Ctrl-C as on the other engines; it can be resumed."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from fedwarm.core.failures import RunError
from fedwarm.engines.deployment.following import AWAY_SECONDS, TELL_AWAY_SECONDS, Following, say
from fedwarm.engines.deployment.retry import Stopped, persist
from fedwarm.federation.control import Control, Unreachable, control
from fedwarm.federation.noting import note
from fedwarm.federation.processes import dead, living
from fedwarm.federation.remote import reached
from fedwarm.federation.settings import CONNECTION, SUPEREXEC, SUPERLINK, Federation, flag, load
from fedwarm.flower.app import refuse_unknown
from fedwarm.flower.family import family
from fedwarm.flower.outcome import TAIL_LINES, Outcome
from fedwarm.flower.processes import ending_on_signals, environment, executable, plain
from fedwarm.flower.writing import write_app
from fedwarm.record.checkpoint import exists
from fedwarm.record.checkpoint import load as checkpoint
from fedwarm.record.lock import LOCK, refuse_busy
from fedwarm.settings.fields import SettingError, Value
from fedwarm.settings.text import table

POLL_SECONDS, LOOK_SECONDS, TAKEN_SECONDS, STOP_SECONDS = 0.2, 1.0, 3.0, 30.0


def ready(said: str, clients: int = 0) -> Federation:
    """The federation, up; nodes that are not there are named.

    Raises:
        SettingError: there is none, its servers do not run or answer, or it has another number of nodes than `clients`.
    """
    federation = load(said)
    if federation.remote:
        reached(federation, said, say)
    missing = [] if federation.remote else dead(federation)
    if {SUPERLINK, SUPEREXEC} & set(missing):
        ended = ", ".join(missing)
        raise SettingError(f"federation {said!r} is not up ({ended} ended); `fedwarm federation up{flag(said)}` comes first")
    if federation.outside and not federation.remote:
        reached(federation, said, say)
        if clients not in (0, len(federation.nodes), federation.most_sites):
            say(f"--clients {clients} chooses nobody here: {len(federation.nodes)} sites are online, and all of them take part")
    elif clients not in (0, len(federation.nodes)):
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
        RunError: the run was refused, failed, was stopped, or its SuperLink stayed away; with the last lines of the log.
    """
    refuse_unknown(app_folder, overrides)
    folder = Path(str(overrides.get("out", "")))
    before = {each.pid for each in serverapps(federation)}
    with control(federation) as link, ending_on_signals():
        earlier, run_id = {each.run_id for each in link.runs()}, 0
        try:
            run_id = submit(federation, app_folder, overrides)
            say(f"run {run_id} on federation {federation.name}")
            note(federation, "run", run=str(run_id), method=str(overrides.get("method", "")), out=str(folder))
            following = Following(federation, link, run_id, folder if folder.is_absolute() else None)
            ended = following.to_the_end()
        except Exception:
            raise
        except BaseException:  # a signal, by whatever name it comes
            if run_id := run_id or _taken(link, earlier, str(overrides.get("out", ""))):
                _stop(federation, link, run_id, before, folder)
            raise
    lines = tuple(following.lines)
    complaint = Outcome(ended.status, ended.details, lines).complaint()
    if complaint is not None:
        let_end(federation, before, folder)
        raise (Stopped if ended.status.endswith("stopped") else RunError)(complaint, lines[-TAIL_LINES:])


def run_here(said: str, config: Mapping[str, Value], again: str = "", keep_going: bool = False) -> None:
    """Run fedwarm's own app with these settings, all of them, on a federation that is up.

    Args:
        said: the federation.
        config: the settings, with `out`.
        again: the command that goes on with the run.
        keep_going: start a run that failed again from its checkpoint; one that fails twice at the same stage is given up.

    Raises:
        RunError: it failed; the message says how to go on with it.
    """
    federation, out = load(said), Path(str(config["out"]))

    def once(resume: bool) -> None:
        with tempfile.TemporaryDirectory(prefix="fedwarm-") as name:
            folder = write_app(Path(name) / "app", {**config, "resume": resume or config.get("resume", False)})
            run_deployment(federation, folder, {key: config[key] for key in ("method", "out")})

    def done() -> int | None:
        return checkpoint(out).done if exists(out) else None

    persist(once, done, again, partial(_wait_for_servers, federation, said) if keep_going else None)


def _wait_for_servers(federation: Federation, said: str) -> None:
    end, told = time.monotonic() + AWAY_SECONDS, -TELL_AWAY_SECONDS
    while True:
        federation.processes |= load(said).processes
        if federation.remote or (living(federation, SUPEREXEC) and living(federation, SUPERLINK)):
            with suppress(Unreachable), control(federation) as link:
                link.nodes()
                return
        if time.monotonic() > end:
            raise RunError(f"the SuperLink of federation {federation.name!r} was not back after {AWAY_SECONDS:.0f} s")
        if time.monotonic() - told > TELL_AWAY_SECONDS:
            told = time.monotonic()
            how = "" if federation.remote else f"; `fedwarm federation up{flag(said)}` starts what has ended"
            say(f"waiting for SuperLink and SuperExec{how}")
        time.sleep(POLL_SECONDS)


def submit(federation: Federation, app_folder: Path, overrides: Mapping[str, Value]) -> int:
    """Hand an app to the SuperLink by `flwr run`; the run's id.

    Raises:
        RunError: it was not taken.
    """
    words = [executable("flwr"), "run", str(app_folder.resolve()), CONNECTION, "--format", "json"]
    env = environment(federation.flower, federation.folder / "bytecode", [federation.reach])
    with tempfile.NamedTemporaryFile("w", suffix=".toml", encoding="utf-8") as file:
        if overrides:
            file.write(table(overrides))
            file.flush()
            words += ["--run-config", file.name]
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace", env=env)
    told = plain(done.stdout)
    try:
        answer = json.loads(told[told.index("{") :])
        if answer["success"]:
            return int(answer["run-id"])
        why = str(answer["error-message"])
    except (ValueError, KeyError, TypeError):
        why = told + done.stderr
    why = why.strip() or f"exit code {done.returncode}"
    raise RunError(f"the SuperLink of federation {federation.name!r} did not take {app_folder}: {why}")


def serverapps(federation: Federation) -> list[psutil.Process]:
    """The ServerApps that run now, also one whose SuperExec has ended."""
    found = []
    for each in family([], [federation.mark(SUPEREXEC)]):
        with suppress(psutil.Error):
            if any(Path(word).name == "flwr-serverapp" for word in each.cmdline()):
                found.append(each)
    return found


def _taken(link: Control, earlier: set[int], out: str) -> int:
    """The run that a submission which was broken off has started all the same, known by its folder; 0: none."""
    end = time.monotonic() + TAKEN_SECONDS
    while out and time.monotonic() < end:
        with suppress(RunError):
            for each in link.runs():
                if each.run_id not in earlier and each.config.get("out") == out and not each.finished:
                    return each.run_id
        time.sleep(POLL_SECONDS)
    return 0


def _stop(federation: Federation, link: Control, run_id: int, before: set[int], folder: Path) -> None:
    """Stop a run, and wait until its ServerApp writes no more."""
    try:
        link.stop(run_id)
    except RuntimeError as error:
        say(f"run {run_id} could not be stopped ({error}); `fedwarm federation down{federation.flag}` ends it")
        return
    say(f"run {run_id} is stopped; waiting for its ServerApp to end")
    let_end(federation, before, folder)


def let_end(federation: Federation, before: set[int], folder: Path) -> None:
    """Wait until a run's ServerApp, which was not there before the run, has ended: who goes on with the run must be alone."""
    end = time.monotonic() + STOP_SECONDS
    while [each for each in serverapps(federation) if each.pid not in before and not _elsewhere(each, folder)] or (
        federation.remote and _busy(folder)
    ):
        if time.monotonic() > end:
            say("the ServerApp of the run still runs; resume the run when it has ended")
            return
        time.sleep(LOOK_SECONDS)


def _elsewhere(serverapp: psutil.Process, folder: Path) -> bool:
    """Whether a ServerApp is at work in the folder of another run, whose lock it has open."""
    with suppress(psutil.Error):
        locks = [Path(each.path) for each in serverapp.open_files() if Path(each.path).name == LOCK]
        return bool(locks) and (folder / LOCK).resolve() not in locks
    return False


def _busy(folder: Path) -> bool:
    """Whether somebody is at work in a run folder: of a ServerApp that runs elsewhere nothing else can be seen."""
    try:
        refuse_busy(folder)
    except SettingError:
        return True
    return False

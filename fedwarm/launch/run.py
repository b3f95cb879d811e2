"""From a request on the command line to a finished run: checks first, then the engine, then the report."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedwarm.core.failures import RunError
from fedwarm.core.files import DiskError
from fedwarm.core.surroundings import surroundings
from fedwarm.core.terminal import put, say
from fedwarm.data.settings import Data
from fedwarm.engines import Asked, Engine
from fedwarm.launch.interrupt import command, how_to_go_on, interruptible, next_step
from fedwarm.launch.live import rebuilt
from fedwarm.launch.request import DEFAULTS_VARIABLE as DEFAULTS_VARIABLE
from fedwarm.launch.request import Request as Request
from fedwarm.launch.request import asked as asked
from fedwarm.launch.request import check_numbers, engine_of, folder_of, given, own_defaults
from fedwarm.record.checkpoint import Checkpoint, load
from fedwarm.record.folder import RunFolder
from fedwarm.record.lock import refuse_busy
from fedwarm.record.record import ENGINE_VARIABLE
from fedwarm.rounds.extend import changed
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError, Value, near
from fedwarm.settings.kinds import ENGINES
from fedwarm.settings.text import parse_overrides

LEAST = 2  # clients of an app that does not say how many
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


def run_method(request: Request) -> Path:
    """As `completed`, and print what the run reached and cost."""
    folder = completed(request)
    _print_results(folder)
    return folder


def completed(request: Request) -> Path:
    """Check, run and write the report page; the run folder's path.

    Raises:
        SettingError: something asked for cannot be; nothing was written.
        RunError: the run started and failed.
        Interrupted: a signal ended it.
    """
    from fedwarm.launch.outlook import outlook
    from fedwarm.launch.preflight import check_run, prepare_folder

    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    check_numbers(request)
    engine, flat = engine_of(request.engine, request.asked), asked(request)
    refuse_busy(folder_of(request, flat))
    before = _resumed(request, flat)
    if before is not None and before.complete:
        return _reported(folder_of(request, flat))
    known = replace(request.asked, clients=request.clients or (before.clients if before is not None else 0))
    config, clients = check_run(flat, engine.clients(known), engine.real)
    out = folder_of(request, flat)
    folder = RunFolder(out) if before is not None or request.fresh else prepare_folder(out, False)
    _tell_idle(request, config, engine.real)
    tell_odd(config, clients)
    for told in outlook(config, clients) if before is None else ():
        say(f"fedwarm: {told}")
    if before is None:
        folder = prepare_folder(out, request.fresh)  # last, as what it held is gone then
        flat = {**own_defaults(config), **flat}
    if config.run.set:  # defaults that were given: an engine fills the others up, and nobody could tell them apart
        flat["set"] = f"{flat.get('set', '')} {config.run.set}".strip()
    flat["out"], flat["resume"] = str(folder.path), before is not None
    if engine.here(known):
        flat.setdefault("client-folder", str(folder.path / "clients"))
    place = chosen(request.engine, engine, known)
    wanted = replace(known, clients=clients, again=command(out, place))
    progress = _shown(config.run.method, engine, wanted) if request.progress else _silent()
    try:
        live = rebuilt(folder.path, engine.real)
        with surroundings({ENGINE_VARIABLE: request.engine}), interruptible(lambda: how_to_go_on(out, place)), progress, live:
            _guarded(lambda: engine.run(flat, wanted))
    except DiskError as error:
        raise RunError(f"{error}; then {next_step(out, place)}") from error
    return _reported(folder.path)


def _tell_idle(request: Request, config: Config, real: bool) -> None:
    """Say in one line what was given, wherever it was, that this run does not use."""
    from fedwarm.models import device_of
    from fedwarm.relevance import idle

    named = given(request)
    settings = {**config.flat(), "device": device_of(config.run.device).type}
    if found := [named[key] for key in idle(named, settings, config.run.method, real)]:
        verb = "has" if len(found) == 1 else "have"
        say(f"fedwarm: {', '.join(found)} {verb} no effect in this run")


def tell_odd(config: Config, clients: int) -> None:
    """Say before a run what is odd about who holds what, and which classifiers do not say what they were trained on."""
    from fedwarm.rounds.artefacts import unknown
    from fedwarm.rounds.odd import held, remarks

    dealt = () if config.of(Data).own else remarks(config, held(config, clients))
    for line in (*dealt, *unknown(config)):
        say(f"fedwarm: {line}")


def _resumed(request: Request, flat: dict[str, Value]) -> Checkpoint | None:
    """The run to go on with; its settings become the request's. None where there is none yet and a method was named.

    Raises:
        SettingError: there is none and no method was named, it cannot be used, or another setting was asked for.
    """
    if not request.resume:
        return None
    if request.fresh:
        raise SettingError("--resume goes on with the folder's run and --fresh replaces it; give one of them")
    place = folder_of(request, flat)
    if request.method and not RunFolder(place).entries():
        return None
    checkpoint = load(place)
    if request.clients not in (0, checkpoint.clients):
        raise SettingError(f"--clients {request.clients}, but the run in {place} has {checkpoint.clients}; leave it out")
    other = changed(checkpoint, flat, place.absolute())
    own = dict(checkpoint.settings)
    if str(own.pop("client-folder", "")) not in ("", f"{own.pop('out', '')}/clients"):
        own["client-folder"] = checkpoint.settings["client-folder"]
    flat.update({key: value for key, value in own.items() if key not in flat})
    return replace(checkpoint, complete=checkpoint.complete and not other)


def chosen(name: str, engine: Engine, asked: Asked) -> str:
    """The options that choose an engine on the command line, a blank before each."""
    return ("" if name == ENGINES.first else f" --engine {name}") + engine.words(asked)


def _shown(what: str, engine: Engine, asked: Asked) -> AbstractContextManager[None]:
    """The progress of a run, where its engine leaves that to us."""
    from fedwarm.launch.display import shown

    title = engine.title(asked)
    return shown(f"{what}: {title}") if title else nullcontext()


def _silent() -> AbstractContextManager[None]:
    from fedwarm.launch.display import silent

    return silent()


def _guarded(work: Callable[[], None]) -> None:
    """Turn what a federation can end with into one line; bad settings stay what they are."""
    try:
        work()
    except (SettingError, DiskError):
        raise
    except (RuntimeError, ValueError, OSError) as error:
        if os.environ.get("FEDWARM_DEBUG"):
            raise
        raise RunError(f"{str(error).strip() or type(error).__name__} (FEDWARM_DEBUG=1 shows where)") from error


def _reported(folder: Path) -> Path:
    """Write the page of a finished run; its folder."""
    from fedwarm.report.page import make_report

    make_report([folder])
    return folder


def _print_results(folder: Path) -> None:
    from fedwarm.report.page import PAGE

    results = json.loads((folder / "results.json").read_text())
    final, totals = results["final"], results["totals"]
    if final["global"]["accuracy"] is not None:
        print(f"global accuracy    {final['global']['accuracy']:.4f}{_on(results.get('evaluation') or {})}")
    for name, value in (final["global"].get("metrics") or {}).items():
        if value is not None:
            print(f"{name:<18} {value:.4f}")
    if final["personal"] and final["personal"]["mean"] is not None:
        print(f"personal accuracy  {final['personal']['mean']:.4f} mean, {final['personal']['worst']:.4f} worst client")
    for what, told in privacy_lines(results.get("privacy")):
        print(f"{what:<18} {told}")
    print(f"bytes              {totals['bytes_up']:,} up, {totals['bytes_down']:,} down, in {totals['seconds']:.0f} s")
    put(f"report             {(folder / PAGE).resolve()}")


def privacy_lines(told: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    """What a finished run has cost, by whose it is: epsilon with all that it is stated for; and how often clients refused."""
    if told and (refusals := told.get("refusals")):
        yield "refused", ", ".join(f"{number} by {reason}" for reason, number in refusals.items())
    if told and "certified" in told:
        kind = "certified" if told["certified"] else "not certified"
        yield "privacy", f"epsilon {told['epsilon']:.4g} at delta {told['delta']:g}, view {told['view']}, {kind}"
        yield from (("  of an image", text) for _, text in privacy_lines(told.get("example_level")))


def _on(evaluation: Mapping[str, Any]) -> str:
    """Which split a global accuracy is on, where it is not the usual one."""
    where = {"split": "dealt to the clients", "central": "at the server"}.get(str(evaluation.get("test")))
    return f" on {evaluation['images']:,} images of split {evaluation['split']!r}, {where}" if where else ""


def run_app(folder: Path, overrides: list[str], name: str, asked: Asked) -> None:
    """Run any Flower app's folder on the engine of that name.

    Raises:
        SettingError: the folder is no Flower app, or an override names no setting of it.
        RunError: the run failed.
    """
    from fedwarm.flower.app import read_app

    engine, app, flat = engine_of(name, asked), read_app(folder), parse_overrides(overrides)
    for key in flat:
        if key not in app.config:
            raise SettingError(f"{folder} has no setting {key!r}{near(key, list(app.config))}")
    wanted = replace(asked, clients=engine.clients(asked) or LEAST)
    with _shown(str(folder), engine, wanted):
        _guarded(lambda: engine.run_app(folder, flat, wanted))

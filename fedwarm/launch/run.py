"""From a request on the command line to a finished run: checks first, then the engine, then the report."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedwarm.core.failures import RunError
from fedwarm.core.files import DiskError
from fedwarm.core.terminal import put, say
from fedwarm.data.settings import OWN, Data
from fedwarm.federation.settings import flag
from fedwarm.federation.settings import load as load_federation
from fedwarm.launch.interrupt import command, how_to_go_on, interruptible
from fedwarm.record.checkpoint import Checkpoint, load
from fedwarm.record.extend import changed
from fedwarm.record.folder import RunFolder, runs_root
from fedwarm.record.lock import refuse_busy
from fedwarm.record.record import ENGINE_VARIABLE
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError, Value, near

QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
PATHS = (
    "data.name", "diffusion.foundation", "model.weights", "gen-fedsd.file", "gen-fedsd.judge", "gen-fedsd.prompts-file",
    "gen-fedsd.phrases",
)  # fmt: skip
SIMULATED = ("local", "ray")
ENGINES = (*SIMULATED, "deployment")
DEFAULTS_VARIABLE = "FEDWARM_RUN_CONFIG"


@dataclass(frozen=True)
class Request:
    """What `fedwarm run METHOD` was asked."""

    method: str
    engine: str = "local"
    out: Path | None = None
    seed: int | None = None
    rounds: int | None = None
    clients: int = 0
    workers: int = 0
    fresh: bool = False
    resume: bool = False
    run_config: tuple[str, ...] = ()
    federation: str = "default"
    keep_going: bool = False


def run_method(request: Request) -> Path:
    """Check, run, report; the run folder's path.

    Raises:
        SettingError: something asked for cannot be; nothing was written.
        RunError: the run started and failed.
        Interrupted: a signal ended it.
    """
    from fedwarm.launch.outlook import outlook
    from fedwarm.launch.preflight import check_run, prepare_folder

    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    flat = asked(request)
    refuse_busy(_folder(request, flat))
    before = _resumed(request, flat)
    if before is not None and before.complete:
        return _conclude(_folder(request, flat))
    asked_for = request.clients or (before.clients if before is not None else 0)
    real = request.engine not in SIMULATED
    config, clients = check_run(flat, nodes_of(request.federation, asked_for) if real else asked_for, real)
    out = _folder(request, flat)
    folder = RunFolder(out) if before is not None else prepare_folder(out, request.fresh)
    _tell_idle(request, config)
    _tell_odd(config, clients)
    if before is None:
        for told in outlook(config, clients):
            say(f"fedwarm: {told}")
    flat["out"], flat["resume"] = str(folder.path), before is not None
    if not (real and load_federation(request.federation).remote):  # nodes elsewhere keep what is theirs where they are
        flat.setdefault("client-folder", str(folder.path / "clients"))
    place = request.engine + (flag(request.federation) if real else "")
    try:
        with _named(request.engine), interruptible(lambda: how_to_go_on(out, place)):
            _engine(request, flat, clients, config.run.method)
    except DiskError as error:
        raise RunError(f"{error}; then go on with: {command(out, place)}") from error
    return _conclude(folder.path)


def _tell_idle(request: Request, config: Config) -> None:
    """Say in one line what was given, wherever it was, that this run does not use."""
    from fedwarm.models import device_of
    from fedwarm.relevance import idle

    given = _given(request)
    settings = {**config.flat(), "device": device_of(config.run.device).type}
    real = request.engine not in SIMULATED
    if found := [given[key] for key in idle(given, settings, config.run.method, real)]:
        verb = "changes" if len(found) == 1 else "change"
        say(f"fedwarm: {', '.join(found)} {verb} nothing in this run")


def _given(request: Request) -> dict[str, str]:
    """What somebody gave, by key: how it is called where it was given last."""
    from fedwarm.settings.text import parse_overrides

    names = {key: f"{key} (in {DEFAULTS_VARIABLE})" for key in parse_overrides(_usual())}
    names |= {key: key for key in parse_overrides([*request.run_config])}
    return names | ({"num-server-rounds": "--rounds"} if request.rounds is not None else {})


def _tell_odd(config: Config, clients: int) -> None:
    from fedwarm.rounds.artefacts import unknown
    from fedwarm.rounds.odd import held, remarks

    dealt = () if config.of(Data).own else remarks(config, held(config, clients))
    for line in (*dealt, *unknown(config)):
        say(f"fedwarm: {line}")


def asked(request: Request) -> dict[str, Value]:
    """The settings of a request, flat; those of the environment's `FEDWARM_RUN_CONFIG` come first and lose."""
    from fedwarm.settings.kinds import METHODS
    from fedwarm.settings.text import parse_overrides

    flat: dict[str, Value] = dict(parse_overrides([*_usual(), *request.run_config]))
    if request.method:
        flat["method"] = METHODS.canonical(request.method)
    if request.seed is not None:
        flat["seed"] = request.seed
    if request.rounds is not None:
        flat["num-server-rounds"] = request.rounds
    for key in PATHS:
        if flat.get(key) and (key, flat[key]) != ("data.name", OWN) and Path(str(flat[key])).exists():
            flat[key] = str(Path(str(flat[key])).absolute())
    return flat


def _usual() -> list[str]:
    return [text] if (text := os.environ.get(DEFAULTS_VARIABLE, "").strip()) else []


def _folder(request: Request, flat: Mapping[str, Value]) -> Path:
    """Where the run is recorded."""
    if request.out is not None:
        return request.out
    return Path(str(flat.get("out") or runs_root() / f"{flat['method']}-seed-{flat.get('seed', 0)}"))


def _resumed(request: Request, flat: dict[str, Value]) -> Checkpoint | None:
    """The run to go on with; its settings become the request's. None where there is none yet and a method was named.

    Raises:
        SettingError: there is none and no method was named, it cannot be used, or another setting was asked for.
    """
    if not request.resume:
        return None
    if request.fresh:
        raise SettingError("--resume goes on with the folder's run and --fresh replaces it; give one of them")
    place = _folder(request, flat)
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


@contextmanager
def _named(engine: str) -> Iterator[None]:
    """Tell the run's processes by their environment which engine they are on, for the record."""
    before = os.environ.get(ENGINE_VARIABLE)
    os.environ[ENGINE_VARIABLE] = engine
    try:
        yield
    finally:
        os.environ.pop(ENGINE_VARIABLE)
        if before is not None:
            os.environ[ENGINE_VARIABLE] = before


def nodes_of(federation: str, clients: int) -> int:
    """How many nodes a federation has, which is how many clients its runs have; a SettingError where others are asked for."""
    from fedwarm.engines.deployment.engine import ready

    return len(ready(federation, clients).nodes)


def _engine(request: Request, flat: Mapping[str, Value], clients: int, method: str) -> None:
    if request.engine == "local":
        from fedwarm.engines.local.run import run_local
        from fedwarm.flower.app import FlowerApp
        from fedwarm.launch.display import shown

        app = FlowerApp("fedwarm.strategies.server_app:app", "fedwarm.clients.client_app:app", dict(flat), None)
        with shown(f"{method}: {clients} clients on the local engine"):
            _guarded(lambda: run_local(app, {}, clients=clients, workers=request.workers))
    elif request.engine == "deployment":
        from fedwarm.engines.deployment.engine import run_here
        from fedwarm.launch.display import shown

        with shown(f"{method}: {clients} clients on federation {request.federation}"):
            _guarded(lambda: run_here(request.federation, flat, request.keep_going))
    else:
        from fedwarm.engines.ray import run_ray, write_app

        with tempfile.TemporaryDirectory(prefix="fedwarm-") as name:
            folder = write_app(Path(name) / "app", dict(flat))
            _guarded(lambda: run_ray(folder, {}, clients=clients, workers=request.workers, stream=_echo))


def _guarded(work: object) -> None:
    """Turn what a federation can end with into one line; bad settings stay what they are."""
    assert callable(work)
    try:
        work()
    except (SettingError, DiskError):
        raise
    except (RuntimeError, ValueError, OSError) as error:
        if os.environ.get("FEDWARM_DEBUG"):
            raise
        raise RunError(f"{str(error).strip() or type(error).__name__} (FEDWARM_DEBUG=1 shows where)") from error


def _echo(line: str) -> None:
    from fedwarm.core.logs import restyled

    say(restyled(line))


def _conclude(folder: Path) -> Path:
    from fedwarm.report.page import make_report

    page = make_report([folder])
    results = json.loads((folder / "results.json").read_text())
    final, totals = results["final"], results["totals"]
    if final["global"]["accuracy"] is not None:
        print(f"global accuracy    {final['global']['accuracy']:.4f}{_on(results.get('evaluation') or {})}")
    if final["personal"]:
        print(f"personal accuracy  {final['personal']['mean']:.4f} mean, {final['personal']['worst']:.4f} worst client")
    print(f"bytes              {totals['bytes_up']:,} up, {totals['bytes_down']:,} down, in {totals['seconds']:.0f} s")
    put(f"report             {page}")
    return folder


def _on(evaluation: Mapping[str, Any]) -> str:
    """Which split a global accuracy is on, where it is not the usual one."""
    where = {"split": "dealt to the clients", "central": "at the server"}.get(str(evaluation.get("test")))
    return f" on {evaluation['images']:,} images of split {evaluation['split']!r}, {where}" if where else ""


def run_app(app_folder: Path, overrides: list[str], engine: str, clients: int, workers: int, federation: str = "default") -> None:
    """Run any Flower app's folder.

    Raises:
        SettingError: the folder is no Flower app, or an override names no setting of it.
    """
    from fedwarm.flower.app import read_app
    from fedwarm.settings.text import parse_overrides

    app, flat = read_app(app_folder), parse_overrides(overrides)
    for key in flat:
        if key not in app.config:
            raise SettingError(f"{app_folder} has no setting {key!r}{near(key, list(app.config))}")
    if engine == "local":
        from fedwarm.engines.local.run import run_local
        from fedwarm.launch.display import shown

        with shown(f"{app_folder}: {clients or 2} clients on the local engine"):
            _guarded(lambda: run_local(app, flat, clients=clients or 2, workers=workers))
    elif engine == "deployment":
        from fedwarm.engines.deployment.engine import ready, run_deployment
        from fedwarm.launch.display import shown

        place = ready(federation, clients)
        with shown(f"{app_folder}: {len(place.nodes)} clients on federation {place.name}"):
            _guarded(lambda: run_deployment(place, app_folder.absolute(), flat))
    else:
        from fedwarm.engines.ray import run_ray

        _guarded(lambda: run_ray(app_folder.absolute(), flat, clients=clients or 2, workers=workers, stream=_echo))

"""The models that a run left in its folder, as modules that are ready to predict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from fedwarm.core.inputs import Form
from fedwarm.core.store import ALL
from fedwarm.models import Model, build_model, model_of
from fedwarm.objectives import is_learned
from fedwarm.record.reading import Run
from fedwarm.rounds.fixed import FIXED, plain
from fedwarm.scopes import State
from fedwarm.settings.config import General
from fedwarm.settings.fields import Group, SettingError, read
from fedwarm.settings.kinds import SCOPES, TASKS
from fedwarm.settings.registry import settings_of
from fedwarm.tasks import Task, made

WEIGHTS, BEST = "model.safetensors", "best.safetensors"
Builder = Callable[[Run, Model, int, State], nn.Module]


@dataclass(frozen=True)
class Finished:
    """A model of a finished run.

    Attributes:
        model: the module, on the CPU.
        settings: its architecture.
        width: outputs of its head.
        inputs: what it takes.
        learned: what the run's objective learned beside the weights, by name.
    """

    model: nn.Module
    settings: Model
    width: int
    inputs: Form
    learned: dict[str, Tensor]


def finished(run: Run, weights: str = WEIGHTS) -> Finished:
    """The global model of a run, out of one of its files.

    Args:
        run: as it was read.
        weights: the file in its folder: `WEIGHTS`, the last model, or `BEST`, the best one.

    Raises:
        SettingError: there is no such file, or it holds no one model of the architecture.
    """
    path = run.folder / weights
    if not path.is_file():
        raise SettingError(
            f"{run.folder} holds no {weights}; {run.method} keeps no global model, or the run is not finished: "
            "continue it by --resume, or give another run"
        )
    return _opened(run, path)


def task_of(run: Run) -> Task:
    """The task of a run, with its settings."""
    return made(*task_settings(run))


def task_settings(run: Run) -> tuple[str, tuple[Group, ...]]:
    """The name of a run's task, and the settings of it."""
    name = str(run.settings.get("task", General.task))
    return name, tuple(read(group, run.settings) for group in settings_of(TASKS.load(name)))


def personal(run: Run, client: int) -> Finished:
    """The newest personal model of a client that keeps its state in the run's folder, as it does on the local engine.

    Raises:
        SettingError: there is none.
    """
    found = sorted((run.folder / "clients").glob(f"*/{client}/personal.*.safetensors"), key=_step)
    others = sorted(
        {path.parent.name for path in (run.folder / "clients").glob("*/*/personal.*.safetensors")}, key=lambda n: (len(n), n)
    )
    if not found and others:
        raise SettingError(f"{run.folder} holds no personal model of client {client}; it has those of {', '.join(others)}")
    if not found:
        raise SettingError(
            f"{run.folder} holds no personal model of client {client}; {run.method} makes none, or its clients "
            "keep their state elsewhere: give a run of the local engine whose method makes personal models"
        )
    return _opened(run, found[-1], _scoped)


def _scoped(run: Run, settings: Model, width: int, state: State) -> nn.Module:
    """The model of a client's state, which may lack what was never trained and may hold what `model.train` added."""
    from safetensors.torch import load_file

    train = str(run.settings.get("model.train", Model.train))
    groups = (read(group, run.settings) for group in settings_of(SCOPES.load(train)))
    settings = replace(settings, train=train, own_settings=(*settings.own_settings, *groups))
    path = next((run.folder / "clients").glob(f"*/{ALL}/{FIXED}.*.safetensors"), None)
    sizes = width, run.inputs, run.seed
    return plain(settings, build_model(settings, *sizes, {**({} if path is None else load_file(path)), **state}), *sizes)


def _usual(run: Run, settings: Model, width: int, state: State) -> nn.Module:
    return build_model(settings, width, run.inputs, run.seed, state)


def _step(path: Path) -> int:
    step = path.name.split(".")[1]
    return int(step) if step.isdecimal() else -1


def _opened(run: Run, path: Path, build: Builder = _usual) -> Finished:
    from safetensors.torch import load_file

    state = load_file(path)
    learned = {name: tensor for name, tensor in state.items() if is_learned(name)}
    return _built(run, path, {name: tensor for name, tensor in state.items() if name not in learned}, learned, build)


def _built(run: Run, path: Path, state: State, learned: dict[str, Tensor], build: Builder = _usual) -> Finished:
    width = task_of(run).width(len(run.classes))
    settings = model_of({**run.settings, "model.name": _told(run, "model.name")})
    try:
        model = build(run, settings, width, state)
    except (KeyError, RuntimeError) as error:
        raise SettingError(
            f"{path} does not fit model {settings.name!r} with {len(run.classes)} classes; the file is of another run, or "
            f"{run.method} has several models or leaves parts of its model with clients: give a run with one global model"
        ) from error
    return Finished(model, settings, width, run.inputs, learned)


def _told(run: Run, key: str) -> str | int:
    if key not in run.settings:
        raise SettingError(
            f"{run.folder / 'results.json'} does not say {key}, so that its model cannot be rebuilt; give a run of "
            "this version of fedwarm"
        )
    value: str | int = run.settings[key]
    return value

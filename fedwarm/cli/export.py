"""A finished run's global model as the file that a device would load, its weights quantized."""

from __future__ import annotations

from pathlib import Path

from fedwarm.catalogue import groups_of, parse
from fedwarm.models import build_model, model_of
from fedwarm.objectives import is_learned, objective_of
from fedwarm.quantize.export import Exported, export
from fedwarm.quantize.settings import QuantizationRobust
from fedwarm.record.reading import Run, read_run
from fedwarm.relevance import Run as Relevant
from fedwarm.settings.config import Config, General
from fedwarm.settings.fields import SettingError, keys
from fedwarm.settings.kinds import OBJECTIVES
from fedwarm.sparse.export import KEPT, beside
from fedwarm.sparse.shrink import kept_of, shrunk
from fedwarm.tasks import made

WEIGHTS = "model.safetensors"


def export_run(folder: Path, bits: int, form: str, out: Path) -> tuple[Exported, str]:
    """Write the run's global model with quantized weights; how they are quantized is what the run's settings say.

    Units that do nothing, as all of their weights are zero, are left out; then a second text says what that saves.

    Args:
        folder: the run.
        bits: 2 to 16, or 32 for float.
        form: `torch` or `onnx`.
        out: the file.

    Raises:
        SettingError: the folder holds no run or no classifier, or it cannot be written like this.
    """
    from safetensors.torch import load_file

    from fedwarm.rounds.artefacts import KEY, sources

    run, weights = read_run(folder, ledger=False), folder / WEIGHTS
    if not weights.is_file():
        raise SettingError(f"{folder} holds no {WEIGHTS}; {run.method} keeps no global model, or the run is not finished")
    state = load_file(weights)
    learned = {name: tensor for name, tensor in state.items() if is_learned(name)}
    state = {name: tensor for name, tensor in state.items() if not is_learned(name)}
    size = int(_told(run, "data.image-size"))
    width = made(str(run.settings.get("task", General.task))).width(len(run.classes))
    settings = model_of({**run.settings, "model.name": _told(run, "model.name")})
    config = _quantization(run)
    try:
        model = build_model(settings, width, size, run.seed, state)
    except (KeyError, RuntimeError) as error:
        raise SettingError(f"{weights} does not fit model {settings.name!r} with {len(run.classes)} classes") from error
    told = {KEY: [source.told() for source in sources(weights) or []]}
    objective = objective_of(config)
    how = objective.scheme(config), objective.learned(config, learned)
    if learned or not (kept := kept_of(model)):
        return export(model, bits, form, out, settings, width, size, *how, told), ""
    small = shrunk(model, kept)
    done = export(small, bits, form, out, settings, width, size, *how, {**told, KEPT: kept})
    return done, beside(model, small, size)


def _quantization(run: Run) -> Config:
    """The run's objective, with its settings and those of the scheme; what else the run was does not matter here."""
    objective = str(Relevant(run.settings, run.method)["objective"])
    wanted = {key for key, _, _ in keys((QuantizationRobust, *groups_of(OBJECTIVES, objective)))}
    return parse({**{key: value for key, value in run.settings.items() if key in wanted}, "objective": objective})


def _told(run: Run, key: str) -> str | int:
    if key not in run.settings:
        raise SettingError(f"{run.folder / 'results.json'} does not say {key}")
    value: str | int = run.settings[key]
    return value

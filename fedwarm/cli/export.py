"""A finished run's global model as the file that a device would load, its weights quantized."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedwarm.catalogue import groups_of, parse
from fedwarm.data.scaling import Scale
from fedwarm.launch.columns import scale_of_run, settings_of_run
from fedwarm.launch.finished import BEST, WEIGHTS, finished, task_of, task_settings
from fedwarm.objectives import objective_of
from fedwarm.quantize.export import KEPT, Exported, export, was_exported
from fedwarm.quantize.settings import QuantizationRobust
from fedwarm.record.reading import Run, read_run
from fedwarm.relevance import Run as Relevant
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError, Value, keys
from fedwarm.settings.kinds import OBJECTIVES
from fedwarm.sparse.export import beside
from fedwarm.sparse.shrink import kept_of, shrunk

NAME = "model-w"  # how an exported file's name begins unless it is given
UNKNOWN = "and the file does not say how; scale them as training did, or train with a CSV file of known statistics"


def export_run(folder: Path, bits: int, form: str, out: Path) -> tuple[Exported, str]:
    """Write the run's global model with quantized weights; how they are quantized is what the run's settings say.

    Units that do nothing, as all of their weights are zero, are left out. A second text says what that saves, and where a device
    must scale columns as clients did.

    Args:
        folder: the run.
        bits: 2 to 16, or 32 for float.
        form: `torch` or `onnx`.
        out: the file.

    Raises:
        SettingError: the folder holds no run or no global model, it cannot be written like this, or the file is one of the run's.
    """
    from fedwarm.rounds.artefacts import KEY, sources

    run = read_run(folder, ledger=False)
    _check_out(folder, out)
    done = finished(run)
    config = _quantization(run)
    scale, why = scale_of_run(run)
    unknown = f"{why}, {UNKNOWN}" if why else ""
    told = {KEY: [source.told() for source in sources(folder / WEIGHTS) or []], "task": _task(run), **_columns(run, scale)}
    objective = objective_of(config)
    place = done.settings, done.width, done.inputs
    how = objective.scheme(config), objective.learned(config, done.learned)
    if done.learned or not (kept := kept_of(done.model)):
        return export(done.model, bits, form, out, *place, *how, told, task_of(run), scale), unknown
    small = shrunk(done.model, kept)
    exported = export(small, bits, form, out, *place, *how, {**told, KEPT: kept}, task_of(run), scale)
    return exported, "\n".join(filter(None, (beside(done.model, small, done.inputs), unknown)))


def _columns(run: Run, scale: Scale | None) -> dict[str, Any]:
    """What a header says of the columns that a model takes as (x - mean) / std."""
    if scale is None:
        return {}
    return {"columns": {"names": list(run.inputs.columns), "mean": scale.mean.tolist(), "std": scale.spread.tolist()}}


def _check_out(folder: Path, out: Path) -> None:
    """See that no file of the run is written over."""
    own = out.name in (WEIGHTS, BEST) or (out.exists() and not was_exported(out))
    if own and out.resolve().is_relative_to(folder.resolve()):
        raise SettingError(f"out = {str(out)!r} is a file of the run itself; name another one, e.g. {folder / NAME}8.safetensors")


def _task(run: Run) -> dict[str, Value]:
    """The run's task and the settings of it, by their keys."""
    name, groups = task_settings(run)
    return {"name": name, **{key: getattr(group, f.name) for group in groups for key, _, f in keys((type(group),))}}


def _quantization(run: Run) -> Config:
    """The run's objective, with its settings and those of the scheme; what else the run was does not matter here."""
    objective = str(Relevant(run.settings, run.method)["objective"])
    return parse({**settings_of_run(run, (QuantizationRobust, *groups_of(OBJECTIVES, objective))), "objective": objective})

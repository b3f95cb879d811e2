"""The course of a foundation's training in its folder: what is finished is not done again, and what was interrupted goes on.

The autoencoder is kept in the folder `unfinished` until the whole pipeline is written; the same command again goes on behind it,
to the same weights. A folder that holds anything else is left as it is.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fedwarm.core.files import read_object, replacing, try_folder, write_text
from fedwarm.diffusion.pretraining.recipe import Pictures, Tick, latent_set, rebuilt_error, save, train_unet, train_vae
from fedwarm.diffusion.pretraining.untrained import Recipe
from fedwarm.diffusion.sentences import OWN_TEMPLATES
from fedwarm.settings.fields import SettingError

UNFINISHED, RECORD, INDEX = "unfinished", "recipe.json", "model_index.json"
DRAWS = "draws"


@dataclass(frozen=True)
class Draws:
    """Where the parts of a training draw from; parts may share a generator.

    Attributes:
        autoencoder, latents, denoiser: the training's.
        rebuilt: the pictures on which the autoencoder is measured.
        measured: how many these are.
    """

    autoencoder: torch.Generator
    latents: torch.Generator
    denoiser: torch.Generator
    rebuilt: torch.Generator
    measured: int


def finished(folder: Path, plan: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of the foundation of this plan in a folder; None where it is to be made there, or gone on with.

    Raises:
        SettingError: the folder holds something else.
    """
    record = read_object(folder / RECORD)
    if (folder / UNFINISHED).is_dir() or not folder.exists():
        return None
    if not (folder / INDEX).is_file():
        if folder.is_dir() and not any(folder.iterdir()):
            return None
        raise SettingError(f"--out {folder} holds something other than a foundation; name a new folder")
    if not record:
        raise SettingError(f"--out {folder} holds a pipeline that was not trained here; name a new folder")
    if {key: record.get(key) for key in plan} != plan:
        raise SettingError(f"--out {folder} holds a foundation of another recipe or other images; name a new folder")
    return record


def trained(
    folder: Path,
    plan: Mapping[str, Any],
    pipe: Any,
    pictures: Pictures,
    recipe: Recipe,
    draws: Draws,
    tick: Tick,
    templates: Sequence[str] = (),
) -> dict[str, Any]:
    """Train a pipeline, or go on behind its autoencoder, and write it as fp16 safetensors.

    Args:
        folder: where it goes, `recipe.json` beside it.
        plan: what decides the weights, as JSON; the record begins with it.
        pipe: the pipeline before training.
        pictures: what it is trained on.
        recipe: steps and rates.
        draws: where the parts draw from.
        tick: called with (stage, step, of, text).
        templates: what it is best asked with; none: the usual ones.

    Returns:
        what `recipe.json` holds.

    Raises:
        RunError: the training diverged.
    """
    begun = time.monotonic()
    try_folder(folder / UNFINISHED)
    for name in (RECORD, INDEX, OWN_TEMPLATES):
        (folder / name).unlink(missing_ok=True)
    done = _autoencoder(pipe, folder / UNFINISHED, plan, pictures, recipe, draws, tick)
    latents, ids = latent_set(pipe, pictures, recipe, draws.latents, tick)
    train_unet(pipe, latents, ids, recipe, draws.denoiser, tick)
    record = {
        **plan,
        "seconds": round(time.monotonic() - begun + done["seconds_before"]),
        "autoencoder_l1": done["autoencoder_l1"],
        "torch": torch.__version__,
        "device": pipe.device.type,
    }
    if templates:
        write_text(folder / OWN_TEMPLATES, "\n".join(templates) + "\n")
    save(pipe, folder, record)
    shutil.rmtree(folder / UNFINISHED)
    return record


def _autoencoder(
    pipe: Any, folder: Path, plan: Mapping[str, Any], pictures: Pictures, recipe: Recipe, draws: Draws, tick: Tick
) -> dict[str, Any]:
    """Train the autoencoder and keep it in the folder, or take the one that was kept there; its error and its seconds before."""
    from safetensors.torch import load_file, save_file

    kept, weights = read_object(folder / "done.json"), folder / "autoencoder.safetensors"
    if kept.get("plan") == plan:
        state = load_file(weights)
        draws.autoencoder.set_state(state.pop(DRAWS))
        pipe.vae.load_state_dict(state)
        pipe.vae.eval().requires_grad_(False).register_to_config(scaling_factor=kept["scaling_factor"])
        return kept
    (folder / "done.json").unlink(missing_ok=True)
    begun = time.monotonic()
    train_vae(pipe.vae, pictures, recipe, draws.autoencoder, tick)
    error = rebuilt_error(pipe.vae, pictures, draws.rebuilt, draws.measured)
    with replacing(weights) as temporary:
        save_file({**pipe.vae.state_dict(), DRAWS: draws.autoencoder.get_state()}, temporary)
    kept = {
        "plan": plan,
        "seconds_before": time.monotonic() - begun,
        "autoencoder_l1": round(error, 4),
        "scaling_factor": pipe.vae.config.scaling_factor,
    }
    write_text(folder / "done.json", json.dumps(kept, indent=1) + "\n")
    return {**kept, "seconds_before": 0.0}

"""Train a foundation on a data set's public part: warm from the embedded one, or anew.

The recipe is that of `pretraining.recipe`. A warm start takes all weights; the tokenizer is learned from the new captions,
so that their words are whole tokens, and a token that the old one knew keeps its embedding. What is done is kept in the folder:
the same command again goes on behind the last complete part, to the same weights. `prompts.txt` holds the templates of the
captions, which are what the foundation is best asked with.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from fedwarm.core.files import read_object, replacing, try_folder, write_text
from fedwarm.core.seeds import generator, initialisation
from fedwarm.diffusion.foundation import load_foundation
from fedwarm.diffusion.pretraining.captions import PublicPart
from fedwarm.diffusion.pretraining.recipe import CPU, Tick, latent_set, rebuilt_error, save, train_unet, train_vae
from fedwarm.diffusion.pretraining.untrained import Recipe, build_pipeline, build_tokenizer
from fedwarm.diffusion.sentences import OWN_TEMPLATES
from fedwarm.diffusion.settings import Diffusion
from fedwarm.settings.fields import SettingError

PUBLIC_RECIPE = Recipe(
    threads=1,
    vae_steps=1000,
    vae_learning_rate=1e-3,
    unet_steps=5200,
    unet_learning_rate=1e-3,
    images=40_000,
    batch_size=32,
)
STARTS = ("glyph", "scratch")
UNFINISHED = "unfinished"
REBUILT = 256


def pretrain_public(
    folder: Path, public: PublicPart, recipe: Recipe, start: str, tick: Tick, device: torch.device = CPU
) -> dict[str, Any]:
    """Train a foundation and write it to `folder`, as `pretrain` does.

    Args:
        folder: where the pipeline goes; what an earlier call with the same arguments left there is gone on with.
        public: what it is trained on.
        recipe: steps, rates and seed; its sizes where the start is `scratch`.
        start: `glyph` or `scratch`.
        tick: called with (stage, step, of, text).
        device: where it trains; every draw is the CPU's.

    Returns:
        what `recipe.json` holds.

    Raises:
        SettingError: the folder holds another foundation, or a caption has more tokens than the text encoder reads.
    """
    plan = json.loads(json.dumps({"recipe": asdict(recipe), "start": start, "data": public.provenance()}))
    finished = read_object(folder / "recipe.json")
    if {key: finished.get(key) for key in plan} == plan:
        return finished
    if finished and (folder / "model_index.json").is_file():
        raise SettingError(f"{folder} holds a foundation of another recipe or other images; name a new folder by --out")
    torch.set_num_threads(recipe.threads)
    pipe, begun = started(public, recipe, start).to(device), time.monotonic()
    try_folder(folder / UNFINISHED)
    for name in ("recipe.json", "model_index.json"):
        (folder / name).unlink(missing_ok=True)
    done = _autoencoder(pipe, folder / UNFINISHED, plan, public, recipe, tick)
    latents, ids = latent_set(pipe, public, recipe, generator(recipe.seed, "foundation", "latents"), tick)
    train_unet(pipe, latents, ids, recipe, generator(recipe.seed, "foundation", "denoiser"), tick)
    record = {
        **plan,
        "seconds": round(time.monotonic() - begun + done["seconds_before"]),
        "autoencoder_l1": done["autoencoder_l1"],
        "torch": torch.__version__,
        "device": device.type,
    }
    write_text(folder / OWN_TEMPLATES, "\n".join(public.templates) + "\n")
    save(pipe, folder, record)
    shutil.rmtree(folder / UNFINISHED)
    return record


def started(public: PublicPart, recipe: Recipe, start: str) -> Any:
    """The pipeline before training, its tokenizer fitted to the captions."""
    captions = public.captions()
    tokenizer = build_tokenizer(captions, recipe.tokens)
    length, longest = max((len(tokenizer(caption).input_ids), caption) for caption in captions)
    if length > recipe.tokens:
        raise SettingError(f"the caption {longest!r} has {length} tokens, more than {recipe.tokens}; shorten the class's name")
    with initialisation(recipe.seed, "foundation"):
        pipe = build_pipeline(recipe, tokenizer)
    if start != "scratch":
        _warm(pipe, load_foundation(Diffusion(foundation=start), "cpu").pipe, recipe.seed)
    return pipe


@torch.no_grad()
def _warm(pipe: Any, other: Any, seed: int) -> None:
    """Take another pipeline's weights; embeddings of tokens that it does not know are drawn at the scale of the others."""
    state, table = other.text_encoder.state_dict(), other.text_encoder.get_input_embeddings().weight
    old, new = other.tokenizer.get_vocab(), pipe.tokenizer.get_vocab()
    rows = float(table.std()) * torch.randn(len(new), table.shape[1], generator=generator(seed, "foundation", "tokens"))
    for token in set(old) & set(new):
        rows[new[token]] = table[old[token]]
    (name,) = (key for key in state if key.endswith("token_embedding.weight"))
    pipe.text_encoder.load_state_dict({**state, name: rows})
    for part in ("unet", "vae"):
        getattr(pipe, part).load_state_dict(getattr(other, part).state_dict())


def _autoencoder(pipe: Any, folder: Path, plan: dict[str, Any], public: PublicPart, recipe: Recipe, tick: Tick) -> dict[str, Any]:
    """Train the autoencoder and keep it in the folder, or take the one that was kept there; its error and its seconds before."""
    from safetensors.torch import load_file, save_file

    kept, weights = read_object(folder / "done.json"), folder / "autoencoder.safetensors"
    if kept.get("plan") == plan:
        pipe.vae.load_state_dict(load_file(weights))
        pipe.vae.eval().requires_grad_(False).register_to_config(scaling_factor=kept["scaling_factor"])
        return kept
    (folder / "done.json").unlink(missing_ok=True)
    begun = time.monotonic()
    train_vae(pipe.vae, public, recipe, generator(recipe.seed, "foundation", "autoencoder"), tick)
    error = rebuilt_error(pipe.vae, public, generator(recipe.seed, "foundation", "rebuilt"), REBUILT)
    with replacing(weights) as temporary:
        save_file(pipe.vae.state_dict(), temporary)
    kept = {
        "plan": plan,
        "seconds_before": time.monotonic() - begun,
        "autoencoder_l1": round(error, 4),
        "scaling_factor": pipe.vae.config.scaling_factor,
    }
    write_text(folder / "done.json", json.dumps(kept, indent=1) + "\n")
    return {**kept, "seconds_before": 0.0}

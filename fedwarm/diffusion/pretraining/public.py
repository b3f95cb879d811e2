"""Train a foundation on a data set's public part: warm from the embedded one, or anew.

The recipe is that of `pretraining.recipe`. A warm start takes all weights; the tokenizer is learned from the new captions,
so that their words are whole tokens, and a token that the old one knew keeps its embedding. What is done is kept in the folder:
the same command again goes on behind the last complete part, to the same weights. `prompts.txt` holds the templates of the
captions, which are what the foundation is best asked with.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from fedwarm.core.seeds import generator, initialisation
from fedwarm.diffusion.foundation import load_foundation
from fedwarm.diffusion.pretraining.captions import PublicPart
from fedwarm.diffusion.pretraining.course import Draws, finished, trained
from fedwarm.diffusion.pretraining.embedded import CPU
from fedwarm.diffusion.pretraining.recipe import Tick
from fedwarm.diffusion.pretraining.untrained import Recipe, build_pipeline, build_tokenizer
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
        SettingError: the folder holds something else, or a caption has more tokens than the text encoder reads.
        RunError: the training diverged.
    """
    plan = json.loads(json.dumps({"recipe": asdict(recipe), "start": start, "data": public.provenance()}))
    if (record := finished(folder, plan)) is not None:
        return record
    torch.set_num_threads(recipe.threads)
    pipe = started(public, recipe, start).to(device)
    parts = {part: generator(recipe.seed, "foundation", part) for part in ("autoencoder", "latents", "denoiser", "rebuilt")}
    return trained(folder, plan, pipe, public, recipe, Draws(**parts, measured=REBUILT), tick, public.templates)


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

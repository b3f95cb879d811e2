"""Train the embedded foundation `glyph`, on digits of fonts and a simulated pen."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedwarm.diffusion.pretraining.course import Draws, finished, trained
from fedwarm.diffusion.pretraining.glyphs import BY_HAND, FONTS_ALONE, font_masks, glyph_batch
from fedwarm.diffusion.pretraining.pen import pen_masks
from fedwarm.diffusion.pretraining.recipe import Tick
from fedwarm.diffusion.pretraining.untrained import Recipe, build_pipeline, build_tokenizer
from fedwarm.diffusion.sentences import WORDS

CPU = torch.device("cpu")
REBUILT = 1000


class Glyphs:
    """Digits rendered from fonts and, where a recipe has hands, handwritten ones, too."""

    def __init__(self, hands: int = 0, seed: int = 0) -> None:
        self.masks, self.law = font_masks(), BY_HAND if hands else FONTS_ALONE
        if hands:
            self.masks = torch.cat([self.masks.half(), pen_masks(hands, torch.Generator().manual_seed(seed))])

    @classmethod
    def of(cls, recipe: Recipe) -> Glyphs:
        """Those that a recipe's foundation is trained on."""
        return cls(recipe.hands, recipe.seed + 3)

    def batch(self, n: int, generator: torch.Generator) -> tuple[Tensor, list[str]]:
        """n digits and what they are."""
        return glyph_batch(self.masks, n, generator, self.law)[:2]

    def labelled(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """n digits (n, 3, 32, 32) in [-1, 1], and their numbers (n,)."""
        images, _, labels = glyph_batch(self.masks, n, generator, self.law)
        return images, labels


def pretrain(folder: Path, recipe: Recipe, tick: Tick, device: torch.device = CPU) -> dict[str, Any]:
    """Train the foundation and write it to `folder` as fp16 safetensors.

    Args:
        folder: where the pipeline goes, and `recipe.json` beside it with recipe, seconds and autoencoder error; what an earlier
            call with the same recipe left there is gone on with.
        recipe: sizes, steps and seed.
        tick: called with (stage, step, of, text).
        device: where it trains; every draw is the CPU's, so that it decides last bits alone.

    Returns:
        what `recipe.json` holds.

    Raises:
        SettingError: the folder holds something else.
        RunError: the training diverged.
    """
    plan = json.loads(json.dumps({"recipe": asdict(recipe), "classes": [*WORDS, *map(str, range(len(WORDS)))]}))
    if (record := finished(folder, plan)) is not None:
        return record
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)  # the initial weights; every later draw has its own generator
    generator, rebuilt = (torch.Generator().manual_seed(recipe.seed + number) for number in (1, 2))
    glyphs = Glyphs.of(recipe)
    pipe = build_pipeline(recipe, build_tokenizer(glyphs.batch(4000, generator)[1], recipe.tokens)).to(device)
    draws = Draws(autoencoder=generator, latents=generator, denoiser=generator, rebuilt=rebuilt, measured=REBUILT)
    return trained(folder, plan, pipe, glyphs, recipe, draws, tick)

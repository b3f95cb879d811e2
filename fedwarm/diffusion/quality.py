"""How good the embedded foundation draws: a judge that knows only rendered digits reads what it drew from prompts."""

from __future__ import annotations

from pathlib import Path

import torch

from fedwarm.config import Diffusion, Model
from fedwarm.diffusion.foundation import load_foundation
from fedwarm.diffusion.generate import generate
from fedwarm.diffusion.glyphs import WORDS, font_masks, glyph_batch
from fedwarm.diffusion.prompts import prompts
from fedwarm.evaluate import correct
from fedwarm.models import build_model
from fedwarm.seeds import generator
from fedwarm.training import Plan, fit

PER_CLASS = 40


def judged(folder: Path, seed: int, pictures: int = 20_000) -> dict[str, float]:
    """Accuracies of a small CNN, trained on rendered digits, on fresh rendered digits and on the foundation's own.

    Args:
        folder: a pipeline.
        seed: of the judge and of the drawn images.
        pictures: rendered digits that the judge is trained on.

    Returns:
        `judge_on_rendered` and `judge_on_drawn`, shares of right answers over 2,000 and 400 images.
    """
    masks = font_masks()
    images, _, labels = glyph_batch(masks, pictures, generator(seed, "judge"))
    judge = build_model(Model(), 10, images.shape[-1], seed)
    fit(judge, _bytes(images), labels, Plan(4, 64, 0.02, 0.9), generator(seed, "judge-order"), stage="judge")
    fresh, _, truth = glyph_batch(masks, 2000, generator(seed, "judge-test"))
    settings = Diffusion(foundation=str(folder.absolute()))
    foundation = load_foundation(settings, "cpu")
    sentences = prompts("a photo of a {class}", WORDS)
    drawn = generate(foundation, None, sentences, range(10), PER_CLASS, settings, seed=seed, client=0, size=images.shape[-1])
    return {
        "judge_on_rendered": round(correct(judge, _bytes(fresh), truth) / len(truth), 4),
        "judge_on_drawn": round(correct(judge, drawn.images, drawn.labels) / len(drawn), 4),
    }


def _bytes(images: torch.Tensor) -> torch.Tensor:
    return ((images + 1) * 127.5).round().to(torch.uint8)

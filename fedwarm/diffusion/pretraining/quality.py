"""How good a foundation draws: judges that do not know it read what it drew from prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedwarm.core.seeds import derive, generator, numpy_generator
from fedwarm.data.heldout import draw
from fedwarm.data.scans import scans, strokes
from fedwarm.data.sets.digits import DOMAINS
from fedwarm.data.settings import Data
from fedwarm.data.shards import Shard, load_pooled
from fedwarm.diffusion.foundation import load_foundation
from fedwarm.diffusion.generate import Order, generate
from fedwarm.diffusion.pool import Pool
from fedwarm.diffusion.pretraining.captions import PublicPart
from fedwarm.diffusion.pretraining.glyphs import CANVAS, SIZE, font_masks, glyph_batch
from fedwarm.diffusion.pretraining.pen import HEIGHT
from fedwarm.diffusion.sampling import sample
from fedwarm.diffusion.sentences import WORDS, prompts
from fedwarm.diffusion.settings import Diffusion
from fedwarm.models import Model, build_model
from fedwarm.training.evaluate import correct
from fedwarm.training.loop import Plan, fit

PER_CLASS, PICTURES, EPOCHS = 40, 20_000, 4
DRAWN, TESTED = 400, 2000
GUIDANCES = (1.5, 2.0)
AGREES = 0.9


def judged(folder: Path, seed: int, pictures: int = PICTURES, per_class: int = PER_CLASS) -> dict[str, float]:
    """What three small CNNs read in digits that a foundation draws, and in fresh ones of their own kind.

    One was trained on digits rendered from fonts, which the embedded foundation knows; the other on scikit-learn's scans of
    handwriting, which it has never seen. Both see them bent and coloured by `glyphs.FONTS_ALONE`: the shapes alone differ. The
    third knows the data set `digits` as it is, in its four looks, and so nothing of other colours, slants and strokes.

    Args:
        folder: a pipeline.
        seed: of the judges and of the drawn images.
        pictures: digits that each judge is trained on.
        per_class: images that are drawn of each digit.

    Returns:
        shares of right answers: `judge_on_rendered` and `scans_judge_on_scans` over 2,000 fresh digits, of scans that were kept
        from the training, `digits_judge_on_digits` over the data set's test images; `judge_on_drawn`, `scans_judge_on_drawn` and
        `digits_judge_on_drawn` over the same drawn images.
    """
    settings = Diffusion(foundation=str(folder.absolute()))
    drawn = drawn_digits(settings, per_class, seed)
    fonts, (known, kept), own, found = font_masks(), scan_masks(seed), looks(seed), {}
    judges = {
        "rendered": (masks_judge(fonts, pictures, seed), *shown_digits(fonts, TESTED, generator(seed, "judge-test"))),
        "scans": (masks_judge(known, pictures, seed), *shown_digits(kept, TESTED, generator(seed, "judge-test"))),
        Data().name: (looks_judge(own, seed, pictures), own.test_images, own.test_labels),
    }
    for name, (judge, fresh, truth) in judges.items():
        prefix = "" if name == "rendered" else f"{name}_"
        found[f"{prefix}judge_on_{name}"] = round(correct(judge, fresh, truth) / len(truth), 4)
        found[f"{prefix}judge_on_drawn"] = round(correct(judge, drawn.images, drawn.labels) / len(drawn), 4)
    return found


def looks(seed: int) -> Shard:
    """The data set `digits` of four clients, a look each, in one hand."""
    return load_pooled(Data(), seed, len(DOMAINS))


def looks_judge(own: Shard, seed: int, pictures: int = PICTURES) -> nn.Module:
    """A small CNN that knows `digits` as it is, after as many steps as judges of so many pictures take."""
    return trained_judge(own.train_images, own.train_labels, 10, seed, EPOCHS * pictures // len(own.train_labels))


def masks_judge(masks: Tensor, pictures: int, seed: int) -> nn.Module:
    """A small CNN that knows digits of so many shapes (n, 10, 64, 64), bent and coloured."""
    return trained_judge(*shown_digits(masks, pictures, generator(seed, "judge")), 10, seed)


def shown_digits(masks: Tensor, count: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """So many digits of shapes (n, 10, 64, 64), bent and coloured: uint8 (count, 3, 32, 32), and which they are (count,)."""
    images, _, labels = glyph_batch(masks, count, draws)
    return ((images + 1) * 127.5).round().to(torch.uint8), labels


def drawn_digits(settings: Diffusion, per_class: int, seed: int) -> Pool:
    """So many images of each digit that a foundation draws from prompts alone."""
    order = Order(prompts("a photo of a {class}", WORDS), range(10), per_class, seed, 0, SIZE)
    return generate(load_foundation(settings, "cpu"), None, order, settings)


def scan_masks(seed: int) -> tuple[Tensor, Tensor]:
    """scikit-learn's scans on the canvas of fonts, three quarters of them and the rest: (n, 10, 64, 64) each, in [0, 1]."""
    shades, labels = scans()
    parts: list[list[Tensor]] = [[], []]
    for digit in range(10):
        rows = np.flatnonzero(labels == digit)
        rows = numpy_generator(seed, "scans", digit).permutation(rows)
        cover = strokes(shades[torch.from_numpy(rows)], CANVAS, CANVAS / HEIGHT, torch.zeros(len(rows)))[:, 0]
        for part, some in zip(parts, cover.split([len(rows) * 3 // 4, len(rows) - len(rows) * 3 // 4]), strict=True):
            part.append(some)
    known, kept = (torch.stack([some[: min(map(len, part))] for some in part], 1) for part in parts)
    return known, kept


def judged_public(
    folder: Path, public: PublicPart, seed: int, guidances: Sequence[float] = GUIDANCES, drawn: int = DRAWN
) -> dict[str, Any]:
    """Accuracies of a small CNN, trained on public images, on others of them and on what the foundation draws of every class.

    Args:
        folder: a pipeline.
        public: the images; up to 2,000 of them, and a sixth at most, are kept from the judge's training.
        seed: of the judge and of the drawn images, whose captions take the templates in turn.
        guidances: classifier-free guidance scales, with each of which images are drawn; of several one is chosen.
        drawn: how many at each of them, as many of every class, and at most 40 of one.

    Returns:
        shares of right answers: `judge_on_real`; `drawn_by_guidance`, of all images drawn with each; `judge_on_drawn` and
        `worst_class`, with the guidance that is best on one half of the images, of the other half.
    """
    n, classes = len(public.labels), len(public.phrases)
    test = torch.from_numpy(draw(public.labels.numpy(), min(TESTED, n // 6), numpy_generator(seed, "judge-test")))
    train = torch.randperm(n, generator=generator(seed, "judge"))
    train = train[~test[train]]
    images, labels = public.images[train], public.labels[train]
    judge = trained_judge(images, labels, classes, seed)
    fit(judge, images, labels, Plan(1, 64, 0.002, 0.9), generator(seed, "judge-end"), stage="judge, to its end")
    made = {guidance: _drawn(folder, public, seed, guidance, drawn) for guidance in guidances}
    half = len(made[guidances[0]]) // 2 if len(guidances) > 1 else 0
    taken = max(made, key=lambda guidance: sum(_by_class(judge, made[guidance][: half or None])))
    right = _by_class(judge, made[taken][half:])
    return {
        "judge_on_real": round(correct(judge, public.images[test], public.labels[test]) / max(int(test.sum()), 1), 4),
        "judge_on_drawn": round(sum(right) / classes, 4),
        "drawn_by_guidance": {
            f"{guidance:g}": round(sum(_by_class(judge, some)) / classes, 4) for guidance, some in made.items()
        },
        "worst_class": {public.phrases[right.index(min(right))]: round(min(right), 4)},
    }


def _drawn(folder: Path, public: PublicPart, seed: int, guidance: float, count: int) -> Tensor:
    """Images (n, classes, 3, S, S) as drawn for each class in turn."""
    classes = len(public.phrases)
    settings = Diffusion(foundation=str(folder.absolute()), guidance=guidance)
    asked = torch.arange(classes).repeat(min(PER_CLASS, -(-count // classes)))
    sentences = [public.caption(c, i // classes) for i, c in enumerate(asked.tolist())]
    seeds = [derive(seed, "judge-image", i) for i in range(len(asked))]
    foundation = load_foundation(settings, "cpu")
    drawn = sample(foundation, sentences, seeds, settings, public.images.shape[-1], f"guidance {guidance:g}")
    by_class: Tensor = drawn.unflatten(0, (-1, classes))
    return by_class


def _by_class(judge: nn.Module, drawn: Tensor) -> list[float]:
    """Of each class the share of images (n, classes, 3, S, S) that the judge takes for it."""
    return [correct(judge, drawn[:, c], torch.full((len(drawn),), c)) / len(drawn) for c in range(drawn.shape[1])]


def trained_judge(images: Tensor, labels: Tensor, classes: int, seed: int, epochs: int = EPOCHS) -> nn.Module:
    """A small CNN that was trained on uint8 images (n, 3, S, S)."""
    judge = build_model(Model(), classes, images.shape[-1], seed)
    fit(judge, images, labels, Plan(epochs, 64, 0.02, 0.9), generator(seed, "judge-order"), stage="judge")
    return judge

"""How well foundations draw digits, by judges of fonts and of handwriting, and by what a classifier learns from them.

    python benchmarks/foundation.py --data path/to/mnist                                # the embedded foundation
    python benchmarks/foundation.py foundations/one foundations/two --steps 12 6 --data path/to/mnist

`agrees`: the share of drawn images that a judge takes for the digit that was asked for; beside it what it reads of other digits
of its own kind. `teaches`: what a classifier trained on the drawn images alone reads of those digits. Judges and classifiers are
the small CNN, all for as many steps. Judges of fonts, scans and MNIST see shapes bent and coloured by the law of fonts alone
(`FONTS_ALONE` in `glyphs`), that of `digits` sees the data set as it is, in its four looks. Only judges see scans, MNIST and
`digits`.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from fedwarm.core.compute import torch_threads
from fedwarm.core.seeds import generator
from fedwarm.data.opening import kept_table
from fedwarm.data.settings import Data
from fedwarm.diffusion.pretraining.glyphs import CANVAS, font_masks
from fedwarm.diffusion.pretraining.quality import (
    EPOCHS,
    PICTURES,
    TESTED,
    drawn_digits,
    looks,
    looks_judge,
    masks_judge,
    scan_masks,
    shown_digits,
    trained_judge,
)
from fedwarm.diffusion.settings import Diffusion
from fedwarm.training.evaluate import correct


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("foundations", nargs="*", default=["glyph"], help="names or folders")
    parser.add_argument("--data", help="folder of MNIST; without it fonts and scikit-learn's scans alone")
    parser.add_argument("--steps", nargs="+", type=int, default=[12], help="denoising steps")
    parser.add_argument("--images", type=int, default=100, help="of each digit")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    with torch_threads(given.threads):
        masks = {"fonts": (font_masks(),) * 2, "scans": scan_masks(given.seed)}
        if given.data:
            masks["MNIST"] = mnist_masks(given.data, given.seed)
        judges = {name: masks_judge(known, PICTURES, given.seed) for name, (known, _) in masks.items()}
        tests = {name: shown_digits(kept, TESTED, generator(given.seed, "judge-test")) for name, (_, kept) in masks.items()}
        shard = looks(given.seed)
        judges["digits"], tests["digits"] = looks_judge(shard, given.seed), (shard.test_images, shard.test_labels)
        kinds = list(judges)
        own = {name: correct(judge, *tests[name]) / len(tests[name][1]) for name, judge in judges.items()}
        print("| foundation, steps |", " | ".join(f"{name} agrees (own {own[name]:.1%}) | teaches {name}" for name in kinds), "|")
        print("|---|" + "---|---|" * len(kinds))
        for name in given.foundations:
            for steps in given.steps:
                pool = drawn_digits(chosen(name, steps), given.images, given.seed)
                learned = trained_judge(pool.images, pool.labels, 10, given.seed, EPOCHS * PICTURES // len(pool))
                cells = [
                    f"{correct(judges[k], pool.images, pool.labels) / len(pool):.1%} | "
                    f"{correct(learned, *tests[k]) / len(tests[k][1]):.1%}"
                    for k in kinds
                ]
                print(f"| {Path(name).name}, {steps} |", " | ".join(cells), "|", flush=True)


def chosen(name: str, steps: int) -> Diffusion:
    """The embedded foundation by its name, or another by its folder."""
    place = name if name == Diffusion().foundation else str(Path(name).absolute())
    return replace(Diffusion(), foundation=place, sample_steps=steps)


def mnist_masks(folder: str, seed: int) -> tuple[Tensor, Tensor]:
    """MNIST's digits on the canvas of fonts, of each 400 to train a judge on and 100 others: (n, 10, 64, 64) each, in [0, 1]."""
    table = kept_table(Data(name=folder, image_size=28))
    order = torch.randperm(len(table.label.codes), generator=generator(seed, "mnist")).numpy()
    labels = table.label.codes[order]
    known, kept = [], []
    for digit in range(10):
        rows = order[labels == digit][:500]
        grey = table.images(rows)[:, :1].float() / 255
        large = F.interpolate(grey, size=(62, 62), mode="bicubic", align_corners=False).clamp(0, 1)
        masks = F.pad(large, (1, CANVAS - 63, 1, CANVAS - 63))[:, 0]
        known.append(masks[:400])
        kept.append(masks[400:])
    return torch.stack(known, 1), torch.stack(kept, 1)


if __name__ == "__main__":
    main()

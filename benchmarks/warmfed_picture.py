"""The picture of README and docs: two real training images of each class above two that were drawn, for each client of a run.

    fedwarm run warmfed --seed 1 --out runs/picture
    python benchmarks/warmfed_picture.py runs/picture docs/digits.png

It needs what `save-pictures` keeps.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torchvision.utils import make_grid, save_image

from fedwarm.catalogue import parse
from fedwarm.data import load_shard
from fedwarm.data.settings import Data

TIMES = 1.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run of WarmFed")
    parser.add_argument("out", type=Path, help="the picture, e.g. docs/digits.png")
    given = parser.parse_args()
    picture(given.run, given.out)


def picture(run: Path, path: Path) -> None:
    """Draw them, enlarged."""
    results = json.loads((run / "results.json").read_text())
    config, drawn = parse(results["settings"]), load_file(run / "pictures" / "generated.safetensors")
    rows = []
    for client in range(clients := results["partition"]["clients"]):
        shard = load_shard(config.of(Data), config.run.seed, client, clients)
        real = torch.cat([shard.train_images[shard.train_labels == c][:2] for c in range(len(shard.classes))])
        rows += [real, drawn[f"client-{client}"][:, :2].flatten(0, 1)]
    grid = make_grid(torch.cat(rows).float() / 255, nrow=2 * len(shard.classes), padding=1, pad_value=1.0)
    save_image(torch.nn.functional.interpolate(grid[None], scale_factor=TIMES, mode="nearest"), path)


if __name__ == "__main__":
    main()

"""What weights of the CIFAR ResNet-20 reach on CIFAR-10's test images: that architecture, names and normalisation are theirs.

python benchmarks/cifar_resnet20.py --data path/to/cifar10 --weights path/to/cifar10_resnet20.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from fedwarm.catalogue import parse
from fedwarm.data.settings import Data
from fedwarm.data.shards import all_tests
from fedwarm.models import Model, build_model
from fedwarm.training.evaluate import correct


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", required=True, help="a folder of parquet files, or a Hub name")
    options.add_argument("--weights", type=Path, required=True)
    given = options.parse_args()
    torch.set_num_threads(1)
    settings = {"data.name": given.data, "data.test": "split", "data.image-size": 32, "data.partition": "iid"}
    config = parse({**settings, "model.name": "resnet20", "model.weights": str(given.weights)})
    table, rows = all_tests(config.of(Data), 0, 1)
    model = build_model(config.of(Model), len(table.label.names), 32, 0)
    right = correct(model, table.images(rows), torch.from_numpy(table.label.codes[rows]))
    print(f"{100 * right / len(rows):.2f} % of {len(rows)} test images")


if __name__ == "__main__":
    main()

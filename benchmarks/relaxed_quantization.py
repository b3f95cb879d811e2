"""Relaxed quantization against its paper: LeNet-5 on MNIST, centralised, at 8/8, 4/4 and 2/2 bits (weights/activations).

    python benchmarks/relaxed_quantization.py --data path/to/mnist [--out runs/relaxed-quantization] [--threads 1]
        [--cells float,rq_st-4-4,rq_st-2-2] [--quick]

The paper's network, 32C5-MP2-64C5-MP2-512FC-10, and its table are public; its optimiser, epochs and first values are not. The
recipe here: a float model by Adam, batch 128, dropout .5 before the last layer, no augmentation; from its weights each quantized
model by Adam again, the learned scales included. The learning rate falls by a cosine to a hundredth. Every weight and every
layer's input is quantized, but for the picture itself. The last epoch's model is measured on the 10,000 test images.
A cell that has its file in --out is not trained again; the float model is kept there and is where every cell starts.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fedwarm.core.seeds import generator, initialisation
from fedwarm.objectives.rq import RelaxedQuantization, quantized
from fedwarm.quantize.relaxed_model import quantizer_state, quantizers

PAPER = {
    "float": 0.64,
    "rq-8-8": 0.55, "rq-4-4": 0.58, "rq-2-2": 0.76,
    "rq_st-8-8": 0.56, "rq_st-4-4": 0.61, "rq_st-2-2": 0.63,
}  # fmt: skip
BAR = {8: 0.25, 4: 0.25, 2: 0.40}
ORDER = ("float", "rq_st-4-4", "rq_st-2-2", "rq_st-8-8", "rq-4-4", "rq-2-2", "rq-8-8")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Epochs and learning rates; `scales` is log alpha's and log sigma's in units of the weights', `relaxed` lambda of `rq`."""

    epochs: int
    rate: float
    dropout: float
    scales: float = 1.0
    relaxed: float = 2 / 3
    batch: int = 128


FLOAT = Recipe(epochs=10, rate=1e-3, dropout=0.5)
TUNED = {8: Recipe(3, 3e-4, 0.2), 4: Recipe(5, 5e-4, 0.2), 2: Recipe(7, 1e-3, 0.2, relaxed=1 / 3)}
Data = dict[str, Tensor]


def lenet5(dropout: float) -> nn.Sequential:
    """32C5-MP2-64C5-MP2-512FC-10 on 28x28, 581,866 parameters; pooling before ReLU is the same function, and cheaper."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 5), nn.MaxPool2d(2), nn.ReLU(),
        nn.Conv2d(32, 64, 5), nn.MaxPool2d(2), nn.ReLU(),
        nn.Flatten(), nn.Linear(1024, 512), nn.ReLU(), nn.Dropout(dropout), nn.Linear(512, 10),
    )  # fmt: skip


def mnist(folder: Path, cache: Path) -> Data:
    """Images float (n, 1, 28, 28) in [-1, 1] and labels of both splits; decoded once, kept as one file in `cache`."""
    kept = cache / "mnist.safetensors"
    if not kept.is_file():
        from datasets import load_dataset

        found: Data = {}
        for split, rows in load_dataset(str(folder)).items():
            found[f"{split}_images"] = torch.from_numpy(np.stack([np.asarray(image) for image in rows["image"]]))
            found[f"{split}_labels"] = torch.tensor(rows["label"])
        save_file(found, kept)
    data = load_file(kept)
    return {name: (t.float() / 127.5 - 1)[:, None] if "images" in name else t for name, t in data.items()}


@torch.no_grad()
def error(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of wrong answers, in percent."""
    model.eval()
    wrong = sum(int((model(x).argmax(1) != y).sum()) for x, y in zip(images.split(500), labels.split(500), strict=True))
    return 100 * wrong / len(labels)


def train(model: nn.Module, data: Data, recipe: Recipe, draws: torch.Generator, name: str) -> list[dict[str, float]]:
    """Adam with a cosine to a hundredth; what each epoch gave."""
    scales = [q.moved for q in quantizers(model).values()]
    weights = [p for p in model.parameters() if not any(p is s for s in scales)]
    groups = [{"params": weights, "factor": 1.0}, {"params": scales, "factor": recipe.scales}]
    optimiser = torch.optim.Adam([g for g in groups if g["params"]], recipe.rate)
    images, labels, history = data["train_images"], data["train_labels"], []
    steps, step = recipe.epochs * math.ceil(len(labels) / recipe.batch), 0
    for epoch in range(recipe.epochs):
        begun, total = time.process_time(), 0.0
        model.train()
        for rows in torch.randperm(len(labels), generator=draws).split(recipe.batch):
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate * group["factor"] * (0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2)
            loss = F.cross_entropy(model(images[rows]), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            step, total = step + 1, total + loss.item() * len(rows)
        found = error(model, data["test_images"], data["test_labels"])
        history.append({"loss": total / len(labels), "error": found, "cpu_seconds": time.process_time() - begun})
        told = ", ".join(f"{k} {v:.4g}" for k, v in history[-1].items())
        print(f"{name}: epoch {epoch + 1} of {recipe.epochs}, {told}", flush=True)
    return history


def settings_of(name: str, recipe: Recipe) -> RelaxedQuantization:
    """The settings of a cell `<variant>-<weight bits>-<activation bits>`."""
    variant, weights, inputs = name.split("-")
    temperature = recipe.relaxed if variant == "rq" else 1.0
    return RelaxedQuantization(variant=variant, bits_weights=int(weights), bits_activations=int(inputs), temperature=temperature)


def float_cell(data: Data, recipe: Recipe, out: Path, seed: int) -> dict[str, Any]:
    """Trains the float model, keeps it, and measures it rounded without training too."""
    with initialisation(seed, "lenet5"):
        model = lenet5(recipe.dropout)
    torch.manual_seed(seed)  # dropout draws from torch's own generator
    history = train(model, data, recipe, generator(seed, "order", "float"), "float")
    save_file(model.state_dict(), out / "float.safetensors")
    result = {"error": history[-1]["error"], "recipe": dataclasses.asdict(recipe), "history": history}
    return {**result, "rounded": {f"{b}-{b}": rounded_error(model, data, b) for b in (8, 4, 2)}}


def rounded_error(model: nn.Module, data: Data, bits: int) -> float:
    """The float model on grids of least squared error, ranges of activations from the first 500 training images."""
    with quantized(model, settings_of(f"rq_st-{bits}-{bits}", FLOAT), {}):
        model(data["train_images"][:500])
        return error(model, data["test_images"], data["test_labels"])


def quantized_cell(name: str, data: Data, recipe: Recipe, out: Path, seed: int) -> dict[str, Any]:
    """Trains one quantized model from the float one."""
    model = lenet5(recipe.dropout)
    model.load_state_dict(load_file(out / "float.safetensors"))
    settings_of(name, recipe).on(generator(seed, "noise", name)).attach(model)
    model(data["train_images"][:500])
    torch.manual_seed(seed)
    history = train(model, data, recipe, generator(seed, "order", name), name)
    logs = {key: round(float(value), 4) for key, value in quantizer_state(model).items()}
    result = {"error": history[-1]["error"], "recipe": dataclasses.asdict(recipe), "history": history}
    return {**result, "scales": logs}


def cell(name: str, data: Data, out: Path, seed: int, quick: bool) -> dict[str, Any]:
    """One cell, from its file if it is there; SystemExit if that is another's."""
    path = out / f"{name}.json"
    said = {"cell": name, "seed": seed, "quick": quick, "threads": torch.get_num_threads()}
    if not path.is_file():
        recipe = FLOAT if name == "float" else TUNED[int(name.split("-")[1])]
        recipe = dataclasses.replace(recipe, epochs=1) if quick else recipe
        result = float_cell(data, recipe, out, seed) if name == "float" else quantized_cell(name, data, recipe, out, seed)
        path.write_text(json.dumps({**said, **result}, indent=1))
    found: dict[str, Any] = json.loads(path.read_text())
    for key, value in said.items():
        if found[key] != value:
            raise SystemExit(f"{path} was made with {key} = {found[key]!r}, not {value!r}; give another --out")
    return found


def table(results: dict[str, dict[str, Any]]) -> str:
    """Test error beside the paper's."""
    lines = [
        "| cell | error, % | paper, % | difference, points | bar | rounded without training, % |",
        "|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        bits = name.partition("-")[2]
        bar = f"{BAR[int(bits[0])]:.2f}" if bits else "-"
        rounded = results["float"].get("rounded", {}).get(bits, result["error"]) if "float" in results else float("nan")
        found, paper = result["error"], PAPER[name]
        lines.append(f"| {name} | {found:.2f} | {paper:.2f} | {found - paper:+.2f} | {bar} | {rounded:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of MNIST's parquet files")
    parser.add_argument("--out", type=Path, default=Path("runs/relaxed-quantization"))
    parser.add_argument("--cells", default=",".join(ORDER), help="which, in this order; float comes first anyway")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="one epoch on 2,560 images, to try the script")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    data = mnist(given.data, given.out)
    if given.quick:
        data = {name: t[:2560] if name.startswith("train") else t[:1000] for name, t in data.items()}
    names = ["float", *(name for name in given.cells.split(",") if name != "float")]
    if unknown := [name for name in names if name not in PAPER]:
        parser.error(f"no cell {unknown[0]!r}; there are {', '.join(ORDER)}")
    print(table({name: cell(name, data, given.out, given.seed, given.quick) for name in names}))


if __name__ == "__main__":
    main()

"""One model at every bit-width: quantization-robust training against FedAvg, over three seeds.

    python benchmarks/quantization.py cifar10 --data path/to/cifar10    # a small ResNet with GroupNorm at 16 pixels, 10 clients
    python benchmarks/quantization.py femnist --data path/to/femnist    # a CNN, 20 clients, a writer each, 62 classes
    python benchmarks/quantization.py femnist --data .. --arms fedavg mqat --seeds 1

A run that is complete in the folder is not run again. Accuracies are of the final global model over all clients' test images,
quantized after training without any tuning; `float` is the model as it is. CIFAR-10 is cut down to 16 pixels, a client to 1,000
images and Dirichlet 0.3, so that two cores are done in time, and the federation begins with a classifier that was trained on
the public half of the data, which no client holds (`--warm`); `--clients`, `--rounds`, `--examples`, `--model` and `--pixels`
make it as large as a machine can bear.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from kept import kept
from safetensors.torch import load_file, save_file
from torch import nn

from fedwarm.catalogue import parse
from fedwarm.core.seeds import generator
from fedwarm.data import load_pooled
from fedwarm.data.settings import Data
from fedwarm.diffusion.pretraining.captions import public_part
from fedwarm.launch.run import Request, run_method
from fedwarm.models import Model, build_model
from fedwarm.objectives import is_learned, objective_of
from fedwarm.objectives.kure import kurtoses
from fedwarm.quantize.sweep import bit_width_sweep
from fedwarm.settings.fields import Value
from fedwarm.training.loop import Plan, fit

ROOT = Path(__file__).parents[1]
WIDTHS = (8, 6, 4, 3, 2)
ROBUST = "quantization_robust"
ARMS: dict[str, tuple[str, dict[str, Value]]] = {
    "fedavg": ("fedavg", {}),
    "lsq": (ROBUST, {"quantization-robust.variant": "qat", "quantization-robust.range": "learned"}),
    "kure": (ROBUST, {"quantization-robust.variant": "kure", "quantization-robust.kure-warmup": 5}),
    "apqn": (ROBUST, {"quantization-robust.variant": "apqn"}),
    "qat 2": (ROBUST, {"quantization-robust.variant": "qat", "quantization-robust.bits": 2}),
    "qat 4": (ROBUST, {"quantization-robust.variant": "qat", "quantization-robust.bits": 4}),
    "qat 8": (ROBUST, {"quantization-robust.variant": "qat", "quantization-robust.bits": 8}),
    "mqat": (ROBUST, {"quantization-robust.variant": "mqat"}),
    "rq": (ROBUST, {"quantization-robust.variant": "rq"}),
    "rq warm": (ROBUST, {"quantization-robust.variant": "rq"}),
}
NAMES = {
    "fedavg": "FedAvg, quantized after training",
    "rq warm": "rq, after a sixth of the rounds in float",
    "lsq": "FedAvg, learned steps (LSQ) at 4 bits for the last third",
}
LEARNED = ("lsq", "rq", "rq warm")
WARM_SEED, WARM_RATES = 0, (0.05, 0.01)
COMMON: dict[str, Value] = {"evaluate.bit-widths": ",".join(map(str, WIDTHS)), "learning-rate": 0.05, "momentum": 0.9}
SETS: dict[str, dict[str, Value]] = {
    "cifar10": {
        "model.name": "resnet8", "data.partition": "dirichlet", "data.alpha": 0.3, "data.image-size": 16, "local-epochs": 1,
        "data.test-fraction": 0.05, "learning-rate": 0.1,
    },
    "femnist": {"model.name": "cnn", "data.partition": "natural", "data.partition-by": "writer_id", "local-epochs": 2},
}  # fmt: skip
SIZES = {"cifar10": (10, 10, 1000), "femnist": (20, 20, 0)}
WARM = {"cifar10": 8, "femnist": 0}


def warm(flat: dict[str, Value], epochs: int, path: Path) -> None:
    """A classifier that was trained, without a thought of bits, on the public half that no client holds."""
    config = parse(flat)
    public = public_part(config.of(Data))
    model = build_model(config.of(Model), len(public.phrases), config.of(Data).image_size, WARM_SEED)
    for rate in WARM_RATES:
        plan = Plan(epochs, config.run.batch_size, rate, config.run.momentum)
        done = fit(model, public.images, public.labels, plan, generator(WARM_SEED, "warm", str(rate)))
        print(f"== warm: {len(public.labels):,} images, {epochs} epochs at {rate:g}, loss {done.loss:.3f}", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), path)


def place(folder: Path, arm: str, seed: int) -> Path:
    """Where a run lies."""
    return folder / f"{arm.replace(' ', '-')}-seed-{seed}"


def one(arm: str, seed: int, flat: dict[str, Value], clients: int, rounds: int, folder: Path) -> dict[str, Any]:
    """The results of one run, from the folder if it is complete there; SystemExit if the folder holds another run."""
    method, own = ARMS[arm]
    begins = {"lsq": 1 + 2 * rounds // 3, "rq warm": 1 + rounds // 6}
    own = {"quantization-robust.start-round": begins[arm], **own} if arm in begins else own
    out, asked = place(folder, arm, seed), {**COMMON, **flat, **own}
    results = kept(out, {**asked, "num-server-rounds": rounds}, clients)
    if results is None:
        print(f"== {arm}, seed {seed}", flush=True)
        settings = tuple(f"{key}={json.dumps(value)}" for key, value in asked.items())
        run_method(Request(method, "local", out, seed, rounds, clients, fresh=True, run_config=settings))
        results = json.loads((out / "results.json").read_text())
    return results


def cell(values: list[float]) -> str:
    """Mean and sample standard deviation, in percent."""
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{spread}"


def table(rows: dict[str, list[dict[str, Any]]], suffix: str) -> list[str]:
    """Accuracy by width of every arm; `suffix` says whether activations are quantized, too."""
    heads = [f"w{b}" + (f"a{b}" if suffix else "") for b in WIDTHS]
    lines = ["| training | float | " + " | ".join(heads) + " | s |", "|---" * (len(heads) + 3) + "|"]
    for arm, results in rows.items():
        final = [r["final"] for r in results]
        seconds = statistics.mean(r["totals"]["seconds"] for r in results)
        cells = [cell([f["global"]["accuracy"] for f in final]), *(cell([f["bit_widths"][h] for f in final]) for h in heads)]
        lines.append(f"| {NAMES.get(arm, arm)} | " + " | ".join(cells) + f" | {seconds:.0f} |")
    return lines


def final_model(results: dict[str, Any], folder: Path) -> nn.Module:
    """A run's float model, without what was learned beside its weights."""
    config, classes = parse(results["settings"]), len(results["partition"]["classes"])
    state = {name: tensor for name, tensor in load_file(folder / "model.safetensors").items() if not is_learned(name)}
    return build_model(config.of(Model), classes, config.of(Data).image_size, config.run.seed, state)


def by_min_max(results: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The same model again with each layer's weights spread over all they hold, the simplest range that a device can take."""
    config = parse({**results["settings"], "quantization-robust.range": "minmax"})
    test = load_pooled(config.of(Data), config.run.seed, results["partition"]["clients"])
    scheme = objective_of(config).scheme(config)
    found = bit_width_sweep(
        final_model(results, folder),
        WIDTHS,
        test.test_images,
        test.test_labels,
        activations=False,
        scheme=scheme,
    )
    return {**results, "final": {**results["final"], "bit_widths": found}}


def kurtosis(results: dict[str, Any], folder: Path) -> list[float]:
    """Of the final model's layers, in their order."""
    return [value.item() for value in kurtoses(final_model(results, folder)).values()]


def spans(rows: list[list[float]]) -> list[str]:
    """By layer, least to greatest."""
    return [f"{min(layer):.1f} - {max(layer):.1f}" for layer in zip(*rows, strict=True)]


def plot(rows: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Accuracy against bits, weights alone and weights with activations."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4), sharey=True)
    for axis, suffix in zip(axes, ("", "a"), strict=True):
        for arm, results in rows.items():
            heads = [f"w{b}" + (f"a{b}" if suffix else "") for b in WIDTHS]
            means = [statistics.mean(r["final"]["bit_widths"][h] for r in results) for h in heads]
            axis.plot(WIDTHS, [100 * m for m in means], marker="o", label=arm)
        axis.set_xlabel("bits of weights" + (" and activations" if suffix else ""))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("accuracy, %")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=SETS)
    parser.add_argument("--data", required=True, help="folder of parquet files, or a Hub name")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=[])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--examples", type=int, default=-1, help="most training images of a client; 0: all")
    parser.add_argument("--pixels", type=int, default=0, help="height and width of images; 0: the table's")
    parser.add_argument("--model", default="", help="another classifier, e.g. resnet18")
    parser.add_argument("--warm", type=int, default=-1, help="epochs of the first weights at either step size; 0: random weights")
    parser.add_argument("--min-max", action="store_true", help="the models again by min-max ranges, weights alone")
    parser.add_argument("--kurtosis", action="store_true", help="of the models' layers, which kure draws to 1.8")
    parser.add_argument("--runs", type=Path, default=None)
    given = parser.parse_args()
    clients, rounds, examples = SIZES[given.what]
    examples = examples if given.examples < 0 else given.examples
    flat: dict[str, Value] = {**SETS[given.what], "data.name": given.data, "data.max-examples": examples}
    flat |= {"model.name": given.model} if given.model else {}
    flat |= {"data.image-size": given.pixels} if given.pixels else {}
    folder = (given.runs or ROOT / "runs" / f"quantization-{given.what}").absolute()
    epochs = WARM[given.what] if given.warm < 0 else given.warm
    if epochs:
        start = folder / f"warm-{flat['model.name']}-{flat['data.image-size']}-{epochs}.safetensors"
        flat |= {"data.public-share": 0.5}
        if not start.is_file():
            warm({**COMMON, **flat}, epochs, start)
        flat |= {"model.weights": str(start)}
    sizes = (given.clients or clients, given.rounds or rounds, folder)
    arms = given.arms or [arm for arm in ARMS if arm != "rq warm" or not epochs]
    rows = {arm: [one(arm, seed, flat, *sizes) for seed in range(1, given.seeds + 1)] for arm in arms}
    print("\n".join([*table(rows, ""), "", *table(rows, "a")]))
    if given.min_max:
        again = {
            arm: [by_min_max(results, place(folder, arm, seed)) for seed, results in enumerate(row, 1)]
            for arm, row in rows.items()
            if arm not in LEARNED
        }
        print("\n".join(["", "by min-max ranges:", "", *table(again, "")]))
    if given.kurtosis:
        found = {arm: [kurtosis(r, place(folder, arm, seed)) for seed, r in enumerate(row, 1)] for arm, row in rows.items()}
        lines = [f"| {NAMES.get(arm, arm)} | " + " | ".join(spans(row)) + " |" for arm, row in found.items()]
        print("\n".join(["", "kurtosis of each layer's weights, least to greatest over the seeds:", "", *lines]))
    plot(rows, folder / "accuracy-by-bits.png")
    print(f"\nplot: {folder / 'accuracy-by-bits.png'}")


if __name__ == "__main__":
    main()

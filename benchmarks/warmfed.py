"""WarmFed on the embedded digits against its baselines, over three seeds; prints the older table of docs/results.md.

    python benchmarks/warmfed.py [--seeds 3] [--runs runs/benchmark] [--extended] [--picture docs/digits.png]

The README's table is of `fedwarm study benchmarks/studies/warmfed_start.toml`; its picture is what `--picture` draws, of seed 1.
A run that is complete in the folder is not run again. `--extended` adds the five-round protocol and the selection rules.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from fedwarm.data.settings import Data
from fedwarm.launch.run import Request, run_method

ROOT = Path(__file__).parents[1]
ROWS: dict[str, tuple[str, int | None, str]] = {
    "WarmFed, one shot": ("warmfed", None, ""),
    "WarmFed from prompts alone (`warmfed.adapt=false`)": ("warmfed", None, "warmfed.adapt=false"),
    "FedAvg, 1 round": ("fedavg", 1, ""),
    "FedAvg, 5 rounds": ("fedavg", 5, ""),
    "FedAvg, 50 rounds": ("fedavg", 50, ""),
    "FedProx, 5 rounds": ("fedprox", 5, ""),
    "local only, 5 rounds": ("local_only", 5, ""),
    "centralized, 50 rounds (reference, not federated)": ("centralized", 50, ""),
}
EXTENDED: dict[str, tuple[str, int | None, str]] = {
    "WarmFed, five rounds": ("warmfed", 5, "warmfed.protocol='five-round'"),
}
RULES = ("sample_better", "sample_correct", "class_better", "model_best", "always", "never")


def one(name: str, method: str, rounds: int | None, settings: str, seed: int, runs: Path) -> dict[str, Any]:
    """The results of one run, from the folder if it is complete there."""
    folder = runs / f"{name.split(' (')[0].replace(' ', '-').replace(',', '').lower()}-seed-{seed}"
    path = folder / "results.json"
    if not (path.is_file() and json.loads(path.read_text())["complete"]):
        print(f"== {name}, seed {seed}", flush=True)
        run_method(Request(method, "local", folder, seed, rounds, fresh=True, run_config=(settings,) if settings else ()))
    results: dict[str, Any] = json.loads(path.read_text())
    return results


def percent(values: list[float | None]) -> str:
    """Mean and sample standard deviation, in percent."""
    found = [100 * v for v in values if v is not None]
    if len(found) < len(values):
        return "-"
    spread = f" ± {statistics.stdev(found):.1f}" if len(found) > 1 else ""
    return f"{statistics.mean(found):.1f}{spread}"


def row(name: str, results: list[dict[str, Any]]) -> str:
    """One line of the table."""
    personal = [r["final"]["personal"] or {"mean": None, "worst": None} for r in results]
    clients = results[0]["partition"]["clients"]
    up = statistics.mean(r["totals"]["bytes_up"] for r in results) / clients
    down = statistics.mean(r["totals"]["bytes_down"] for r in results) / clients
    seconds = statistics.mean(r["totals"]["seconds"] for r in results)
    cells = [
        name,
        percent([r["final"]["global"]["accuracy"] for r in results]),
        percent([p["mean"] for p in personal]),
        percent([p["worst"] for p in personal]),
        f"{up / 1000:,.0f}",
        f"{down / 1000:,.0f}",
        f"{seconds:,.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def picture(run: Path, path: Path) -> None:
    """Two real training images of each class above two generated ones, for each client; three times enlarged."""
    import torch
    from safetensors.torch import load_file
    from torchvision.utils import make_grid, save_image

    from fedwarm.catalogue import parse
    from fedwarm.data import load_shard

    results = json.loads((run / "results.json").read_text())
    config, drawn = parse(results["settings"]), load_file(run / "pictures" / "generated.safetensors")
    rows = []
    for client in range(results["partition"]["clients"]):
        shard = load_shard(config.of(Data), config.run.seed, client, results["partition"]["clients"])
        real = torch.cat([shard.train_images[shard.train_labels == c][:2] for c in range(len(shard.classes))])
        rows += [real, drawn[f"client-{client}"][:, :2].flatten(0, 1)]
    grid = make_grid(torch.cat(rows).float() / 255, nrow=2 * len(shard.classes), padding=1, pad_value=1.0)
    save_image(torch.nn.functional.interpolate(grid[None], scale_factor=1.5, mode="nearest"), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "benchmark")
    parser.add_argument("--extended", action="store_true")
    parser.add_argument("--picture", type=Path, help="draw real digits above drawn ones of each client, of seed 1, to this file")
    arguments = parser.parse_args()
    seeds = range(1, arguments.seeds + 1)  # the settings were chosen on seed 0
    lines = [
        "| method | global accuracy, % | personal, mean, % | personal, worst, % | kB up per client | kB down per client | s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, (method, rounds, settings) in {**ROWS, **(EXTENDED if arguments.extended else {})}.items():
        lines.append(row(name, [one(name, method, rounds, settings, seed, arguments.runs) for seed in seeds]))
    if arguments.extended:
        lines += [row(f"selection `{rule}`", [personal(rule, seed, arguments.runs) for seed in seeds]) for rule in RULES]
    if arguments.picture is not None:
        picture(arguments.runs / "warmfed-one-shot-seed-1", arguments.picture)
    print("\n".join(lines))


def personal(rule: str, seed: int, runs: Path) -> dict[str, Any]:
    """Personal models by another rule from the same warm model: it is loaded, and nothing is generated."""
    model = runs / f"warmfed-one-shot-seed-{seed}" / "model.safetensors"
    settings = f"warmfed.selection='{rule}' warmfed.synthetic-ratio=0.0 model.weights='{model.absolute()}'"
    return one(f"rule {rule}", "warmfed", None, settings, seed, runs)


if __name__ == "__main__":
    main()

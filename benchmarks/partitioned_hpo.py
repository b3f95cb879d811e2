"""Hyperparameters learned by partitions of the network, against fixed ones, the training loss and a random search.

    python benchmarks/partitioned_hpo.py toy                                    # a mask of 20 inputs, 10 of which are noise
    python benchmarks/partitioned_hpo.py rotated --data path/to/mnist           # the width of a rotation, on one machine
    python benchmarks/partitioned_hpo.py federated --data path/to/mnist         # 20 clients of 100 rotated images each
    python benchmarks/partitioned_hpo.py federated --data path/to/femnist --writers
    python benchmarks/partitioned_hpo.py federated --data path/to/mnist --ablations --seeds 2   # one setting changed at a time

Toy: labels are the sign of a random ReLU network of the first 10 inputs around its median, and 10 % of those for training are
flipped. `informative` and `noise` are the mean mask of those inputs; `retrained` is a fresh network at the psi found.
Rotated: all digits of training and test are turned by U[-pi, pi]; upright: none is. The control learns psi by the loss of
training. Federated: the step size of FedAvg is tuned at another seed and is that of all arms; `search` is FedAvg with the
affine half-widths of eight random draws, of which the table has the best on the test images themselves, which favours it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from paired import ROOT, Arm, Bench, Results, spread, table
from paired import accuracy as right
from torch import Tensor, nn

from fedwarm.core.arrays import from_module
from fedwarm.core.seeds import generator, initialisation, numpy_generator
from fedwarm.data.settings import Data
from fedwarm.data.shards import open_table
from fedwarm.data.testing import SPLIT, split_table
from fedwarm.models import Model, build_model, to_input
from fedwarm.models.cnn import Cnn
from fedwarm.partitioned.affine import maps, warped
from fedwarm.partitioned.central import Examples, Partitioned, Search, accuracy, alone, split
from fedwarm.partitioned.masks import Layout, shares_of
from fedwarm.partitioned.psi import Floats, Psi, text_of
from fedwarm.settings.fields import Value

Make = Callable[[], nn.Module]
ROTATED, UPRIGHT = "rotated", "upright"


@dataclass(frozen=True)
class Way:
    """One way to find psi; no chunks: it stays as it is."""

    name: str
    chunks: int
    search: Search
    zeros: bool = False


@dataclass(frozen=True)
class Row:
    """What an arm came to: psi, accuracies in percent of the network as it is and of a fresh one, and seconds of the search."""

    psi: Floats
    full: float
    retrained: float
    seconds: float
    trajectory: Sequence[Floats] = ()


def one(arm: Way, make: Make, train: Examples, test: Examples, psi: Psi, seed: int, samples: int) -> Row:
    """An arm at a seed."""
    begun = time.monotonic()
    if not arm.chunks:
        found = alone(make, train, psi, psi.first, arm.search, seed)
        share = 100 * accuracy(found, psi, test, samples, seed)
        return Row(found.psi, share, share, time.monotonic() - begun)
    first = from_module(make())
    defaults = {name: np.zeros_like(array) for name, array in first.items()} if arm.zeros else first
    layout = Layout.drawn(defaults, shares_of([], arm.chunks), seed)
    chunks = split(train, [1.0] * arm.chunks, seed)
    found = Partitioned(make, layout, chunks, psi, psi.first, arm.search, seed).run()
    seconds = time.monotonic() - begun
    fresh = alone(make, train, psi, found.psi, arm.search, seed)
    shares = [100 * accuracy(each, psi, test, samples, seed) for each in (found, fresh)]
    return Row(found.psi, shares[0], shares[1], seconds, found.trajectory)


def chosen(ways: Sequence[Way], given: argparse.Namespace) -> Sequence[Way]:
    """The arms that are asked for."""
    return [way for way in ways if way.name in given.only] if given.only else ways


def shown(arm: str, figures: dict[str, list[float]]) -> str:
    """A line of a table; it is printed as soon as it is known."""
    return f"| {arm} | " + " | ".join(spread(values) for values in figures.values()) + " |"


# Toy


def toy(count: int, seed: int, use: str) -> Examples:
    """Inputs (n, 20) and labels."""

    def drawn(many: int, what: str) -> tuple[Tensor, Tensor]:
        weights = generator(seed, "teacher")
        x = torch.randn(many, 20, generator=generator(seed, "toy", what))
        first, second = torch.randn(10, 32, generator=weights) / 10**0.5, torch.randn(32, generator=weights)
        return x, (x[:, :10] @ first).relu() @ second

    x, score = drawn(count, use)
    labels = (score > drawn(4000, "median")[1].median()).long()
    flipped = torch.rand(count, generator=generator(seed, "flips")) < 0.1
    return x, torch.where(flipped, 1 - labels, labels) if use == "train" else labels


def small(seed: int) -> Make:
    """The toy's network."""

    def make() -> nn.Module:
        with initialisation(seed, "model"):
            return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 2))

    return make


def toys(given: argparse.Namespace) -> None:
    """The table of the toy."""
    plain = Search(steps=given.steps)
    ways = [
        Way("no mask", 0, plain), Way("mask by the training loss", 1, replace(plain, trained=True)),
        Way("C = 3", 3, plain), Way("C = 2", 2, plain), Way("C = 5", 5, plain), Way("C = 3, defaults 0", 3, plain, zeros=True),
        Way("C = 3, T = 10", 3, replace(plain, every=10)),
    ]  # fmt: skip
    print("| arm | informative | noise | full, % | retrained, % | retrained - no mask | s |\n" + "|---" * 7 + "|", flush=True)
    psi, seeds, base, shown_rows = Psi(["mask"], (20,)), range(given.first, given.first + given.seeds), [], {}
    for way in chosen(ways, given):
        rows = [one(way, small(s), toy(500, s, "train"), toy(4000, s, "test"), psi, s, 1) for s in seeds]
        base, shown_rows[way.name] = base or rows, rows
        masks = [1 / (1 + np.exp(-row.psi)) for row in rows]
        figures = {
            "informative": [float(mask[:10].mean()) for mask in masks], "noise": [float(mask[10:].mean()) for mask in masks],
            "full": [row.full for row in rows], "retrained": [row.retrained for row in rows],
            "gain": [row.retrained - plain.retrained for row, plain in zip(rows, base, strict=True)],
            "s": [row.seconds for row in rows],
        }  # fmt: skip
        print(shown(way.name, figures), flush=True)
    if given.picture is not None:
        draw({name: rows[0] for name, rows in shown_rows.items() if rows[0].trajectory}, given.picture)


def draw(rows: dict[str, Row], path: Path) -> None:
    """The masks of one seed by steps, of the inputs that count and of noise: mean and range."""
    figure = Figure(figsize=(7.2, 2.8), layout="constrained")
    for axes, (name, row) in zip(figure.subplots(1, len(rows), sharey=True, squeeze=False)[0], rows.items(), strict=True):
        masks = 1 / (1 + np.exp(-np.stack(row.trajectory)))
        for part, label, colour in ((masks[:, :10], "informative", "tab:blue"), (masks[:, 10:], "noise", "tab:orange")):
            axes.plot(part.mean(1), color=colour, label=label)
            axes.fill_between(range(len(part)), part.min(1), part.max(1), color=colour, alpha=0.2, linewidth=0)
        axes.set(title=name, xlabel="steps of psi", ylim=(0, 1.02))
    axes.legend(loc="center right")
    figure.savefig(path, dpi=110)


# Rotated digits on one machine


def digits(given: argparse.Namespace, count: int, seed: int, test: bool, turned: bool) -> Examples:
    """Inputs (n, 3, S, S) and labels of images drawn at random, each turned by an angle of its own."""
    data = Data(name=given.data, image_size=given.pixels, test=SPLIT)
    table = split_table(data, open_table(data)) if test else open_table(data)
    rows = np.sort(numpy_generator(seed, "images", int(test)).choice(len(table), count, replace=False))
    x, labels = to_input(table.images(rows)), torch.from_numpy(table.label.codes[rows])
    angles = 2 * torch.rand(count, 1, generator=generator(seed, "angles", int(test)), dtype=torch.float64) - 1
    return (warped(x, maps(torch.tensor([torch.pi]), ("rotation",), angles)) if turned else x), labels.long()


def rotated(given: argparse.Namespace) -> None:
    """The table of rotated and upright digits."""
    plain = Search(steps=given.steps)
    ways = [Way("C = 3", 3, plain), Way("by the training loss", 1, replace(plain, trained=True)), Way("fixed", 0, plain)]
    print("| digits | arm | half-width, rad | full, % | retrained, % | s |\n" + "|---" * 6 + "|", flush=True)
    psi = Psi(["affine"], (3, given.pixels, given.pixels))
    for arm in chosen(ways, given):
        for turned in [kind == ROTATED for kind in given.digits]:
            figures: dict[str, list[float]] = {name: [] for name in ("width", "full", "retrained", "s")}
            for seed in range(given.first, given.first + given.seeds):
                train, test = (digits(given, n, seed, t, turned) for n, t in ((given.images, False), (2000, True)))
                net = Model(name="cnn", own_settings=(Cnn(channels=8),))

                def make(net: Model = net, seed: int = seed) -> nn.Module:
                    return build_model(net, 10, given.pixels, seed)

                row = one(arm, make, train, test, psi, seed, 8)
                width = min(abs(float(row.psi[2])), np.pi)
                for values, value in zip(figures.values(), (width, row.full, row.retrained, row.seconds), strict=True):
                    values.append(value)
                print(
                    f"seed {seed}, {arm.name}, turned {turned}: {np.round(row.psi, 3)}, {row.full:.1f}, {row.retrained:.1f}",
                    flush=True,
                )
            print(shown(f"{ROTATED if turned else UPRIGHT} | {arm.name}", figures), flush=True)


# A federation

OWN = "partitioned-hpo."
SKEWED: dict[str, Value] = {"data.partition": "pathological"}  # two digits a client
CHANGES: dict[str, dict[str, Value]] = {
    "mode A": {f"{OWN}mode": "A"}, "2 chunks": {f"{OWN}chunks": 2}, "5 chunks": {f"{OWN}chunks": 5},
    "equal shares": {f"{OWN}shares": "1,1,1"}, "defaults 0": {f"{OWN}defaults": "zeros"},
    "psi every 5 rounds": {f"{OWN}every": 5}, "first chunk too": {f"{OWN}include-first": True},
    "one draw": {f"{OWN}score-samples": 1},
}  # fmt: skip


def drawn(number: int, seed: int) -> str:
    """Half-widths of a random search: shifts and scalings below 0.3, shears below 0.5, rotations below pi."""
    tops = np.array([0.3, 0.3, np.pi, 0.3, 0.3, 0.5])
    return text_of(numpy_generator(seed, "search", number).random(6) * tops)


def federated(given: argparse.Namespace) -> None:
    """The table of the federation."""
    settings: dict[str, Value] = {
        "data.name": given.data, "data.image-size": given.pixels, "data.partition": "iid", "data.max-examples": given.examples,
        "data.test-fraction": 0.01, "data.rotation": 360.0, "local-epochs": 1, "batch-size": 20, "momentum": 0.9,
        "model.name": "cnn", "cnn.channels": 8, "server-threads": 1,
    }  # fmt: skip
    folder = (given.runs or ROOT / "runs" / "partitioned_hpo").absolute()
    if given.writers:
        settings |= {
            "data.partition": "natural",
            "data.partition-by": "writer_id",
            "data.rotation": 0.0,
            "data.test-fraction": 0.25,
        }
    made = Bench(settings, given.clients, given.rounds, folder, given.workers, given.first)
    seeds = range(given.first, given.first + given.seeds)
    base = made.tuned(Arm("FedAvg", "fedavg"), given.rates, right)
    rate = base.settings["learning-rate"]
    found = Arm("B", "partitioned_hpo", {"learning-rate": rate, f"{OWN}rate": given.psi_rate, f"{OWN}final": "full"})
    whole = Arm("B, half the rounds, then its network whole", "partitioned_hpo", {**found.settings, f"{OWN}final": "finetune"})
    if given.ablations:
        return ablated(made, base, whole, given.seeds)
    half = Arm("B, half the rounds, then a fresh network", "partitioned_hpo", {**found.settings, f"{OWN}final": "retrain"})
    control = Arm("by the training loss", "partitioned_hpo", {**found.settings, f"{OWN}chunks": 1, f"{OWN}score": "trained"})
    rows: dict[str, list[Results]] = {}
    for seed in seeds:
        for arm in (base, found, whole):
            rows.setdefault(arm.name, []).append(made.one(arm, seed))
        psi = rows[found.name][-1]["measures"]["psi"]["settings"]
        later = Arm("FedAvg at the psi of B", found.method, {**psi, "learning-rate": rate})
        rows.setdefault(later.name, []).append(made.one(later, seed))
        print(f"seed {seed}, B: {psi[f'{OWN}psi']}\n{table(rows, {'accuracy, %': right})}", flush=True)
    for seed in seeds if given.tries else ():
        for arm in (control, half):
            rows.setdefault(arm.name, []).append(made.one(arm, seed))
        fixed = {"learning-rate": rate, f"{OWN}chunks": 1}
        tries = [
            made.one(Arm(f"search {n}", found.method, {**fixed, f"{OWN}psi": drawn(n, seed)}), seed) for n in range(given.tries)
        ]
        print(f"seed {seed}, search: {', '.join(f'{right(each):.1f}' for each in tries)}", flush=True)
        rows.setdefault("search, best by the test images", []).append(max(tries, key=right))
    print(table(rows, {"accuracy, %": right}), flush=True)


def ablated(made: Bench, base: Arm, whole: Arm, seeds: int) -> None:
    """FedAvg, the method at its defaults, and with one setting changed; where clients differ in their digits, by chunks."""
    columns = {"accuracy, %": right, "rotation, rad": rotation}
    arms = [base, whole, *(Arm(f"B, {name}", whole.method, {**whole.settings, **own}) for name, own in CHANGES.items())]
    print(table(made.all(arms, seeds), columns), flush=True)
    arms = [Arm(f"two digits, {base.name}", base.method, {**base.settings, **SKEWED})]
    for order in ("random", "in-order"):
        arms.append(Arm(f"two digits, chunks {order}", whole.method, {**whole.settings, **SKEWED, f"{OWN}assign": order}))
    print(table(made.all(arms, seeds), columns), flush=True)


def rotation(results: Results) -> float:
    """The half-width of rotation found, in radians; NaN where none is learned."""
    found = results.get("measures", {}).get("psi")
    return float("nan") if found is None else abs(float(found["settings"][f"{OWN}psi"].split(",")[2]))


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("part", choices=("toy", "rotated", "federated"))
    made.add_argument("--data", default="digits", help="a folder of parquet files, or a Hub name")
    made.add_argument("--seeds", type=int, default=5)
    made.add_argument("--first", type=int, default=1, help="the first seed")
    made.add_argument("--steps", type=int, default=1000)
    made.add_argument("--only", nargs="*", default=[], help="the arms of the toy or of the digits; all if not said")
    made.add_argument("--digits", nargs="+", default=[ROTATED, UPRIGHT], choices=(ROTATED, UPRIGHT))
    made.add_argument("--picture", type=Path, default=None, help="where to draw the toy's masks by steps")
    made.add_argument("--images", type=int, default=1250)
    made.add_argument("--pixels", type=int, default=16)
    made.add_argument("--clients", type=int, default=20)
    made.add_argument("--examples", type=int, default=100, help="training images of a client")
    made.add_argument("--rounds", type=int, default=40)
    made.add_argument("--writers", action="store_true", help="a client a writer, no image turned, in place of turned iid ones")
    made.add_argument("--psi-rate", type=float, default=0.1, help="step size of psi in the federation")
    made.add_argument("--ablations", action="store_true", help="of the federation: one setting changed at a time")
    made.add_argument("--tries", type=int, default=8, help="runs of the random search; 0: no control either")
    made.add_argument("--rates", nargs="+", type=float, default=[0.03, 0.1])
    made.add_argument("--workers", type=int, default=0, help="worker processes; 0: as many as there are cores")
    made.add_argument("--runs", type=Path, default=None, help="folder of the runs")
    given = made.parse_args()
    torch.set_num_threads(1)
    {"toy": toys, "rotated": rotated, "federated": federated}[given.part](given)


if __name__ == "__main__":
    main()

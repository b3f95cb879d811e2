"""FedSparse: accuracy, density and bytes beside FedAvg, over five seeds; and a sweep of densities beside other ways to be sparse.

    python benchmarks/fedsparse.py tune --data path/to/mnist --limits 0.19 --prices 0.03 0.04 0.05
    python benchmarks/fedsparse.py claim --data path/to/mnist
    python benchmarks/fedsparse.py claim --data path/to/mnist --own gates=posterior groups=weights
    python benchmarks/fedsparse.py claim --data path/to/femnist --writers
    python benchmarks/fedsparse.py claim --data path/to/cifar10 --pixels 16
    python benchmarks/fedsparse.py claim --data path/to/femnist --writers --clients 30 --channels 32 --maps 10
    python benchmarks/fedsparse.py curve --data path/to/mnist --seeds 3 --picture curve.png
    python benchmarks/fedsparse.py ablations --data path/to/mnist --seeds 3          # one setting changed at a time

All arms train the same CNN from the same weights on the same images with the same step size, chosen for FedAvg at seed 101;
what FedSparse's plan is made of was chosen on MNIST at the seeds 101 to 103, and a fixed `lambda_0` by `tune` there: the
least that ends at a density of at most .2 at each of them. `claim` has FedAvg with a network that is small from the start
beside it. Bytes are those on the wire in both directions, masks, probabilities and headers included, but not what only
measures models. `density` is the share of the final model's numbers that are not zero: for FedSparse whole units are gone
(single weights with `groups=weights`), for SSFL and what is pruned by magnitude at the end, without training after it, single
weights (easier on accuracy).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from paired import TUNING_SEED, Arm, Bench, Results, accuracy, bench, parser, spread, table

from fedwarm.core.failures import RunError
from fedwarm.models import Model, build_model
from fedwarm.models.cnn import Cnn
from fedwarm.settings.fields import Value

COMMON: dict[str, Value] = {
    "model.name": "cnn", "data.image-size": 14, "local-epochs": 1, "learning-rate": 0.1, "momentum": 0.9, "server-threads": 1,
    "prune.densities": "0.2,0.1,0.05", "prune.by": "weight",
}  # fmt: skip
WRITERS: dict[str, Value] = {"data.partition": "natural", "data.partition-by": "writer_id", "fraction-train": 0.5}
MIXED: dict[str, Value] = {"data.partition": "iid", "data.test-fraction": 0.02}
DENSITY = "0.2"
LIMITS = (0.19, 0.1, 0.05)
MAPS = (3, 4, 6)
CHANGES: dict[str, dict[str, Value]] = {
    "all groups down": {"down": "dense"}, "probabilities up": {"up": "logits"}, "price per gate": {"lambda0-per": "gate"},
    "theta from 0.9": {"theta": 0.9}, "no floor of theta": {"theta-min": 0.0}, "groups go early": {"prune-start": 10},
    "gates to two thirds": {"settle-start": 40}, "no plan": {"density": 0.0, "lambda0": 0.046}, "no prior": {"precision": 0.0},
    "groups fall whole": {"falls": "whole", "up": "logits"},
    "posterior": {"gates": "posterior"}, "posterior, single weights": {"gates": "posterior", "groups": "weights"},
    "single weights": {"groups": "weights", "gate-rate": 5000.0, "theta": 0.9, "lambda0": 0.3},
}  # fmt: skip
ROUNDS, KEEPS, SHARES, DENSITIES = (8, 15, 30), (0.4, 0.6, 0.8), (0.02, 0.05, 0.2), (0.2, 0.1, 0.05)


def megabytes(results: Results) -> float:
    """On the wire, both directions."""
    return float(results["totals"]["bytes_up"] + results["totals"]["bytes_down"]) / 1e6


def seconds(results: Results) -> float:
    """A round's, without the first, which loads the data, and without what measures models: the median."""
    rounds = [s["seconds"] for s in results["stages"] if s["name"] == "round"][1:]
    return statistics.median(rounds)


def density_beside(channels: int, results: Results) -> float:
    """Of the final model, 1 where it is not sparse; a network that was small at first has a share of the numbers of others.

    Args:
        channels: feature maps of the others' first convolution.
        results: of a run.
    """
    found = results.get("measures", {}).get("gates")
    if found:
        return float(found["density"][-1])
    if results["method"] == "ssfl":
        return float(results["settings"]["ssfl.density"])
    net = Model(name="cnn", own_settings=(Cnn(channels=channels),))
    whole = build_model(net, len(results["partition"]["classes"]), int(results["settings"]["data.image-size"]), 0)
    return float(results["totals"]["parameters"]) / sum(p.numel() for p in whole.parameters())


def sparse_accuracy(channels: int, results: Results) -> float:
    """Of the final model in percent where it is sparse, else of what is left of it at a density of .2."""
    return accuracy(results) if density_beside(channels, results) < 1 else 100 * float(results["measures"]["pruned"][DENSITY])


def columns(given: Any) -> dict[str, Callable[[Results], float]]:
    """What a table shows of each arm."""
    density = partial(density_beside, given.channels)
    return {"accuracy, %": accuracy, "density": density, "MB, both ways": megabytes, "s a round": seconds}


def fedsparse(own: Sequence[str], density: float = 0.0, price: float = 0.0) -> Arm:
    """With a planned density, or else at a lambda_0, and settings NAME=VALUE beside it."""
    told = {name: float(v) if v.replace(".", "", 1).isdigit() else v for name, _, v in (each.partition("=") for each in own)}
    changed: dict[str, Value] = {**told, **{name: v for name, v in (("density", density), ("lambda0", price)) if v}}
    name = " ".join(["fedsparse", *(f"{name} {value}" for name, value in changed.items())])
    return Arm(name, "fedsparse", {f"fedsparse.{name}": value for name, value in {"density": 0.0, **changed}.items()})


def small(maps: int) -> Arm:
    """FedAvg with a network of few maps."""
    return Arm(f"fedavg, {maps} maps", "fedavg", {"cnn.channels": maps})


def ssfl(density: float) -> Arm:
    """One mask of single weights, chosen before training."""
    return Arm(f"ssfl {density:g}", "ssfl", {"ssfl.density": density})


def tune(made: Bench, given: Any) -> None:
    """FedAvg and each lambda_0 at seeds that are in no other table."""
    ours = [*(fedsparse(given.own, density=d) for d in given.limits), *(fedsparse(given.own, price=p) for p in given.prices)]
    arms = [Arm("fedavg", "fedavg"), *ours]
    rows = made.all(arms, given.seeds, TUNING_SEED)
    print("\n" + table(rows, columns(given)))
    for name, results in rows.items():
        densest = max(density_beside(given.channels, r) for r in results)
        print(f"{name}: density at most {densest:.3f}, accuracies {[round(accuracy(r), 1) for r in results]}")


def claim(made: Bench, given: Any) -> None:
    """FedAvg, FedSparse at one density or price, and networks that are small from the start, seed by seed.

    With settings of its own FedSparse's defaults and SSFL of the same density are beside it.
    """
    ours = fedsparse(given.own, price=given.price) if given.price else fedsparse(given.own, density=given.limits[0])
    plain = [fedsparse([], density=given.limits[0])] if given.own else []
    rivals = [*map(small, given.maps), *(ssfl(d) for d in given.limits[:1] if given.own)]
    rows = made.all([Arm("fedavg", "fedavg"), ours, *plain, *rivals], given.seeds)
    print("\n" + table(rows, columns(given)))
    first, ours, *_ = rows.values()
    gaps = [accuracy(b) - accuracy(a) for a, b in zip(first, ours, strict=True)]
    shares = [megabytes(b) / megabytes(a) for a, b in zip(first, ours, strict=True)]
    slower = [seconds(b) / seconds(a) for a, b in zip(first, ours, strict=True)]
    print(f"points from FedAvg {spread(gaps)}, share of its bytes {spread(shares)}, its seconds a round {spread(slower)}")
    if given.picture:
        names = ["FedAvg", " ".join(["FedSparse", *given.own]), "FedSparse"]
        draw_rounds(dict(zip(names, list(rows.values())[: 2 + len(plain)], strict=False)), given.picture)


def ablations(made: Bench, given: Any) -> None:
    """FedSparse at its defaults, and with one setting changed."""
    changed = [Arm(f"fedsparse, {n}", "fedsparse", {f"fedsparse.{k}": v for k, v in c.items()}) for n, c in CHANGES.items()]
    rows = made.all([fedsparse([], density=float(DENSITY)), *changed], given.seeds)
    print("\n" + table(rows, columns(given)))


def curve(made: Bench, given: Any) -> None:
    """Each way to a density of at most .2, at three settings; a run that breaks is told, and is not in the table."""
    arms = {
        "fedsparse": [(made, fedsparse(given.own, density=density)) for density in given.limits],
        "ssfl": [(made, ssfl(d)) for d in DENSITIES],
        "small from the start": [(made, small(maps)) for maps in given.maps],
        "fedavg, pruned": [
            (replace(made, rounds=n), Arm(f"fedavg {n} rounds", "fedavg")) for n in (*given.shorter, made.rounds)
        ],
        "federated dropout, pruned": [
            (made, Arm(f"federated dropout {k:g}", "federated_dropout", {"federated-dropout.keep": k})) for k in KEEPS
        ],
        "top-k uplink, pruned": [
            (made, Arm(f"top-k {s:g}", "fedavg", {"codec": "top-k", "top-k.share": s})) for s in SHARES
        ],
    }  # fmt: skip
    arms = {way: pairs for way, pairs in arms.items() if way in given.only or not given.only}
    found: dict[str, dict[str, list[Results]]] = {way: {arm.name: [] for _, arm in pairs} for way, pairs in arms.items()}
    for seed in range(made.first, made.first + given.seeds):
        for way, pairs in arms.items():
            for own, arm in pairs:
                try:
                    found[way][arm.name].append(own.one(arm, seed))
                except RunError as error:
                    print(f"{arm.name}, seed {seed}, is left out: {error}", flush=True)
    heads = ["arm", "seeds", "MB, both ways", "density", "accuracy at a density of at most .2, %", "whole, %"]
    print("\n| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    found = {way: {name: results for name, results in rows.items() if results} for way, rows in found.items()}
    for rows in found.values():
        for name, results in rows.items():
            left = [min(density_beside(given.channels, r), float(DENSITY)) for r in results]
            cells = [[f(r) for r in results] for f in (megabytes, partial(sparse_accuracy, given.channels), accuracy)]
            print(f"| {name} | {len(results)} | {spread(cells[0])} | {spread(left)} | {spread(cells[1])} | {spread(cells[2])} |")
    if given.picture:
        draw(found, given.channels, given.picture)


def axes_of() -> tuple[Any, Any]:
    """A figure and its axes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(7, 4))


def draw_rounds(rows: Mapping[str, Sequence[Results]], path: Path) -> None:
    """Accuracy, and density, against what was sent so far: means over the seeds, round by round."""
    figure, axes = axes_of()
    for colour, (name, results) in zip(("#0072b2", "#d55e00", "#009e73"), rows.items(), strict=False):
        sent = [[sum(r["bytes_up"]) + sum(r["bytes_down"]) for r in each["rounds"] if r["round"]] for each in results]
        reached = [[100 * r["global"]["accuracy"] for r in each["rounds"] if r["round"]] for each in results]
        x = [total / 1e6 for total in accumulate(map(statistics.mean, zip(*sent, strict=True)))]
        axes.plot(x, [*map(statistics.mean, zip(*reached, strict=True))], color=colour, label=f"{name}, accuracy, %")
        if (found := [each["measures"].get("gates") for each in results])[0]:
            shares = zip(*(each["density"] for each in found), strict=True)
            axes.plot(x, [100 * statistics.mean(s) for s in shares], "--", color=colour, label=f"{name}, density, %")
    axes.set(xlabel="MB sent so far, both directions, all clients", ylabel="%", ylim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend(loc="center right", fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def draw(found: Mapping[str, Mapping[str, Sequence[Results]]], channels: int, path: Path) -> None:
    """Accuracy against bytes, a line a way, with standard errors."""
    figure, axes = axes_of()
    for way, rows in found.items():
        left = partial(sparse_accuracy, channels)
        points = sorted((statistics.mean(map(megabytes, r)), [left(each) for each in r]) for r in rows.values())
        means = [statistics.mean(values) for _, values in points]
        errors = [statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0 for _, values in points]
        axes.errorbar([x for x, _ in points], means, errors, marker="o", capsize=3, label=way)
    axes.set(xscale="log", xlabel="MB on the wire, both directions", ylabel="accuracy at a density of at most .2, %")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    options = parser(__doc__, 10, 60)
    options.add_argument("part", choices=("tune", "claim", "curve", "ablations"))
    options.add_argument("--writers", action="store_true", help="a client a writer, half of them a round")
    options.add_argument("--price", type=float, default=0.0, help="lambda_0 of the claim, in place of a planned density")
    options.add_argument("--prices", type=float, nargs="*", default=(), help="those to tune")
    options.add_argument("--limits", type=float, nargs="*", default=LIMITS, help="planned densities; of a claim the first")
    options.add_argument("--own", nargs="*", default=[], help="settings of FedSparse, NAME=VALUE, e.g. gates=posterior")
    options.add_argument("--only", nargs="*", default=[], help="the ways of the curve; all if not said")
    options.add_argument("--maps", type=int, nargs="+", default=MAPS, help="of networks that are small from the start")
    options.add_argument("--shorter", type=int, nargs="+", default=ROUNDS, help="rounds of FedAvg beside --rounds")
    options.add_argument("--channels", type=int, default=16, help="feature maps of the first convolution of the whole network")
    options.add_argument("--pixels", type=int, default=14)
    options.add_argument("--rate", type=float, default=0.0, help="step size, where it is another than that of the table")
    options.add_argument("--picture", type=Path, default=None, help="where to draw it")
    given = options.parse_args()
    size: dict[str, Value] = {"data.image-size": given.pixels, "cnn.channels": given.channels}
    own: dict[str, Value] = {**COMMON, **size, **(WRITERS if given.writers else MIXED)}
    if given.rate:
        own["learning-rate"] = given.rate
    made = bench(given, "fedsparse-writers" if given.writers else "fedsparse", own)
    {"tune": tune, "claim": claim, "curve": curve, "ablations": ablations}[given.part](made, given)


if __name__ == "__main__":
    main()

"""A pre-trained network fine-tuned on PACS in a federation of its four domains, against the same from a random start.

    python benchmarks/pacs.py --data path/to/pacs --weights path/to/cifar10_resnet20.safetensors --examples 96 --seeds 3

The network is the CIFAR ResNet-20 (He et al., arXiv 1512.03385) at 32 pixels, its head new, as PACS has 7 classes; a client is a
domain (photo, art painting, cartoon, sketch). A domain is measured by the model that its client would use: the global one, or its
own where the method gives it one. Every arm has the step size of the grid that suits it best at another seed; with `--tune` those
that it names have, and the others the first arm's (without momentum ten times it).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from paired import PLAIN, RIVALS, Arm, Bench, Results, accuracies, bench, grid, parser, table

from fedwarm.settings.fields import Value

COMMON: dict[str, Value] = {
    "data.partition": "domain", "data.image-size": 32, "model.name": "resnet20", "local-epochs": 2, "momentum": 0.9,
    "batch-size": 16, "data.test-fraction": 0.05,
}  # fmt: skip
METHODS: Mapping[str, tuple[str, dict[str, Value]]] = {**RIVALS, "FedBN": ("fedbn", {})}
SCRATCH = ("FedAvg", "FedBN", "local only", "centralized")


def mean(results: Results) -> float:
    """Over the domains."""
    found = accuracies(results)
    return sum(found) / len(found)


def worst(results: Results) -> float:
    """Of the domain with the least."""
    return min(accuracies(results))


def main() -> None:
    options = parser(__doc__, 4, 8)
    options.add_argument("--weights", type=Path, required=True, help="of the CIFAR ResNet-20, safetensors")
    options.add_argument("--rates", nargs="+", type=float, default=[0.01, 0.03])
    options.add_argument("--scratch-rates", nargs="+", type=float, default=[0.03, 0.1])
    options.add_argument(
        "--tune", nargs="*", default=[], help="arms with a grid of their own; the others' step is the first arm's"
    )
    options.add_argument("--only", nargs="*", default=[], help="the arms to run, as in the table; all if not said")
    given = options.parse_args()
    made, weights = bench(given, "pacs", COMMON), {"model.weights": str(given.weights.absolute())}
    tuned = {n: (m, {**own, **weights}) for n, (m, own) in METHODS.items()}
    tuned |= {"FedAvg, statistics frozen": ("fedavg", {**weights, "model.statistics": "frozen"})}
    tuned |= {"FedBN, statistics alone": ("fedbn", {**weights, "fedbn.keep": "statistics"})}
    scratch = {f"{n} from random": METHODS[n] for n in SCRATCH} | {"FedWon from random": ("fedwon", {})}
    arms = [
        arm for chosen, rates in ((tuned, given.rates), (scratch, given.scratch_rates)) for arm in _at(made, chosen, rates, given)
    ]
    rows = made.all(arms, given.seeds)
    print("\n" + table(rows, {"mean of domains, %": mean, "worst domain, %": worst}))


def _at(
    made: Bench, arms: Mapping[str, tuple[str, Mapping[str, Value]]], rates: list[float], given: argparse.Namespace
) -> list[Arm]:
    """The arms that are asked for, each at its own best step size, or at that of the first of them."""
    found: list[Arm] = []
    for name, (method, own) in arms.items():
        if given.only and name not in given.only:
            continue
        if found and given.tune and name not in given.tune:
            first = float(str(found[0].settings["learning-rate"]))
            rate = first if own.get("momentum") != 0.0 else PLAIN * first
            found.append(Arm(f"{name}, step size {rate:g}", method, {**own, "learning-rate": rate}))
        else:
            found.append(made.tuned(Arm(name, method, own), grid(rates, own), mean))
    return found


if __name__ == "__main__":
    main()

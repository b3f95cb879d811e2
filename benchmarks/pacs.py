"""A pre-trained network fine-tuned on PACS in a federation of its four domains, against the same from a random start.

    python benchmarks/pacs.py --data path/to/pacs --weights path/to/cifar10_resnet20.safetensors --examples 96 --seeds 3

The network is the CIFAR ResNet-20 (He et al., arXiv 1512.03385) at 32 pixels, its head new, as PACS has 7 classes; a client is a
domain (photo, art painting, cartoon, sketch). A domain is measured by the model that its client would use: the global one, or its
own where the method gives it one. Every arm has the step size of the grid that suits it best at another seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from paired import RIVALS, Arm, Results, accuracies, bench, grid, parser, table

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
    given = options.parse_args()
    made, weights = bench(given, "pacs", COMMON), {"model.weights": str(given.weights.absolute())}
    tuned = {n: (m, {**own, **weights}) for n, (m, own) in METHODS.items()}
    tuned |= {"FedAvg, statistics frozen": ("fedavg", {**weights, "model.statistics": "frozen"})}
    tuned |= {"FedBN, statistics alone": ("fedbn", {**weights, "fedbn.keep": "statistics"})}
    scratch = {f"{n} from random": METHODS[n] for n in SCRATCH} | {"FedWon from random": ("fedwon", {})}

    def best(name: str, method: str, own: Mapping[str, Value], rates: list[float]) -> Arm:
        return made.tuned(Arm(name, method, own), grid(rates, own), mean)

    arms = [best(n, m, own, given.rates) for n, (m, own) in tuned.items()]
    arms += [best(n, m, own, given.scratch_rates) for n, (m, own) in scratch.items()]
    rows = made.all(arms, given.seeds)
    print("\n" + table(rows, {"mean of domains, %": mean, "worst domain, %": worst}))


if __name__ == "__main__":
    main()

"""Other data than pictures in a federation: a medical table at four planted sites, and a model of characters by author.

    python benchmarks/sites.py table      # scikit-learn's breast-cancer data: accuracy, AUROC, calibration, the worst site
    python benchmarks/sites.py text       # the next character of three styles: perplexity

A site is measured by the model that it would use: the global one, or its own where the method gives it one. Every arm has the
step size of the grid that suits it best at another seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from paired import RIVALS, Arm, Results, accuracies, bench, grid, parser, table, used

from fedwarm.settings.fields import Value

NORMED: Mapping[str, Mapping[str, tuple[str, dict[str, Value]]]] = {
    "table": {
        "FedAvg, batch normalisation": ("fedavg", {"mlp.norm": "batch"}),
        "FedBN": ("fedbn", {"mlp.norm": "batch"}),
    },
    "text": {
        "FedAvg, layer normalisation": ("fedavg", {"gru.norm": "layer"}),
        "FedBN": ("fedbn", {"gru.norm": "layer"}),
    },
}
TABLE: dict[str, Value] = {
    "model.name": "mlp", "metrics": "auroc,calibration-error", "local-epochs": 1, "batch-size": 16, "momentum": 0.9,
}  # fmt: skip
TEXT: dict[str, Value] = {
    "task": "language", "model.name": "gru", "data.partition": "domain", "local-epochs": 2, "batch-size": 8, "momentum": 0.9,
}  # fmt: skip


def by_site(name: str) -> Callable[[Results], list[float]]:
    """A metric of each site."""
    return lambda results: [float(value) for value in used(results)["metrics"][name]["per_client"]]


def mean(values: list[float]) -> float:
    """Of the sites."""
    return sum(values) / len(values)


def columns(case: str) -> dict[str, Callable[[Results], float]]:
    """What the table shows, the deciding metric first."""
    if case == "text":
        perplexity = by_site("perplexity")
        return {"perplexity, mean of authors": lambda r: mean(perplexity(r)), "worst author": lambda r: max(perplexity(r))}
    auroc, error = by_site("auroc"), by_site("calibration-error")
    return {
        "accuracy, mean of sites, %": lambda r: mean(accuracies(r)),
        "worst site, %": lambda r: min(accuracies(r)),
        "AUROC, mean of sites, %": lambda r: 100 * mean(auroc(r)),
        "worst site's, %": lambda r: 100 * min(auroc(r)),
        "calibration error, %": lambda r: 100 * mean(error(r)),
    }


def main() -> None:
    options = parser(__doc__, 0, 20)
    options.add_argument("case", choices=("table", "text"))
    options.add_argument("--rates", nargs="+", type=float, default=[0.01, 0.03, 0.1, 0.3])
    given = options.parse_args()
    text = given.case == "text"
    given.data, shown = ("styles" if text else "breast-cancer"), columns(given.case)
    made, deciding = bench(given, f"sites-{given.case}", TEXT if text else TABLE), next(iter(shown.values()))

    def better(results: Results) -> float:
        return -deciding(results) if text else deciding(results)

    chosen = {**RIVALS, **NORMED[given.case]}
    arms = [made.tuned(Arm(name, method, own), grid(given.rates, own), better) for name, (method, own) in chosen.items()]
    print("\n" + table(made.all(arms, given.seeds), shown))


if __name__ == "__main__":
    main()

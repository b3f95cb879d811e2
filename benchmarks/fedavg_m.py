"""Rounds to an accuracy with the server's momentum in every local step, against methods without it, over five seeds.

    python benchmarks/fedavg_m.py                                                        # digits, 10 clients of two classes
    python benchmarks/fedavg_m.py --data path/to/mnist --examples 200 --percents 80 90
    python benchmarks/fedavg_m.py --clients 50 --fraction 0.2 --methods scaffold scaffold_m

Every arm has the step size of the grid that suits it best at another seed; steps, images and uploads are the same, what goes
down is more by the direction. `small steps, large server step` is FedAvg with local steps a tenth as long and a server's step
ten times as long, which in the deterministic case has FedAvg-M's fixed point: what is gained over it is momentum's own. The
claim is that the rounds are at most 0.7 of those without momentum.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from paired import Arm, Results, accuracy, bench, parser, rounds_to, spread, table

from fedwarm.settings.fields import Value

COMMON: dict[str, Value] = {
    "local-epochs": 5, "momentum": 0.0, "data.image-size": 16, "data.partition": "pathological", "data.classes-per-client": 2,
}  # fmt: skip
BETA = 0.1
LARGE: dict[str, Value] = {
    "dp-rec.mechanism": "none", "dp-rec.clip": 1e6, "dp-rec.server-learning-rate": 1 / BETA, "dp-rec.view": "local",
    "model.name": "cnn",
}  # fmt: skip


def mean_accuracy(results: Results) -> float:
    """Over the rounds, in percent: what tells at a single seed which step size gets there soonest."""
    return 100 * sum(float(r["global"]["accuracy"]) for r in results["rounds"]) / len(results["rounds"])


def control(rates: list[float]) -> tuple[Arm, list[float]]:
    """FedAvg of small steps and a large server's step, and its grid: the same one times beta."""
    return Arm("fedavg small steps, large server step", "dp_rec", LARGE), [BETA * rate for rate in rates]


def main() -> None:
    options = parser(__doc__, 10, 40)
    options.add_argument("--percents", nargs="+", type=float, default=[60.0, 70.0, 80.0])
    options.add_argument("--fraction", type=float, default=1.0, help="share of the clients in a round")
    options.add_argument("--rates", nargs="+", type=float, default=[0.03, 0.1, 0.3])
    options.add_argument("--methods", nargs="+", default=["fedavg", "fedavg_m", "scaffold", "scaffold_m"])
    given = options.parse_args()
    made = bench(given, "fedavg-m", {**COMMON, "fraction-train": given.fraction})
    arms = {method: made.tuned(Arm(method, method), given.rates, mean_accuracy) for method in given.methods}
    if "fedavg_m" in arms:
        arm, rates = control(given.rates)
        arms["control"] = made.tuned(arm, rates, mean_accuracy)
    rows = made.all(list(arms.values()), given.seeds)
    columns: dict[str, Callable[[Results], float]] = {"accuracy, %": accuracy, "mean over rounds, %": mean_accuracy}
    columns |= {f"rounds to {percent:g} %": partial(rounds_to, percent=percent) for percent in given.percents}
    print("\n" + table(rows, columns), flush=True)
    for method, arm in arms.items():
        plain = arms.get(method.removesuffix("_m"))
        if plain is None or plain is arm:
            continue
        for percent in given.percents:
            shares = [
                rounds_to(a, percent) / rounds_to(b, percent) for a, b in zip(rows[arm.name], rows[plain.name], strict=True)
            ]
            print(f"{method} takes {spread(shares)} of the rounds of {plain.name} to {percent:g} %", flush=True)


if __name__ == "__main__":
    main()

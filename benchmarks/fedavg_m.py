"""Rounds to an accuracy with the server's momentum in every local step, against methods without it, over five seeds.

    python benchmarks/fedavg_m.py                                                        # digits, 10 clients of two classes
    python benchmarks/fedavg_m.py --data path/to/mnist --examples 200 --percent 90
    python benchmarks/fedavg_m.py --clients 50 --fraction 0.2 --pairs scaffold,scaffold_m

Every method is given the same grid of step sizes, and the best of them for its mean is compared; steps, images and uploads are
the same, what goes down is more by the direction. The claim is that the rounds are at most 0.7 of those without momentum.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from paired import Arm, Bench, Results, accuracy, bench, parser, rounds_to, spread, table

from fedwarm.settings.fields import Value

COMMON: dict[str, Value] = {
    "local-epochs": 5, "momentum": 0.0, "data.image-size": 16, "data.partition": "pathological", "data.classes-per-client": 2,
}  # fmt: skip


def best(made: Bench, method: str, rates: Sequence[float], percent: float, seeds: int) -> tuple[str, list[Results]]:
    """The arm of the grid that needs the fewest rounds; of those that need as many, the most accurate."""
    rows = made.all([Arm(f"{method} at {rate:g}", method, {"learning-rate": rate}) for rate in rates], seeds)
    print("\n" + table(rows, {f"rounds to {percent:g} %": lambda r: rounds_to(r, percent), "accuracy, %": accuracy}), flush=True)

    def rank(item: tuple[str, list[Results]]) -> tuple[float, float]:
        return statistics.mean(rounds_to(r, percent) for r in item[1]), -statistics.mean(map(accuracy, item[1]))

    return min(rows.items(), key=rank)


def main() -> None:
    options = parser(__doc__, 10, 40)
    options.add_argument("--percent", type=float, default=80.0)
    options.add_argument("--fraction", type=float, default=1.0, help="share of the clients in a round")
    options.add_argument("--rates", nargs="+", type=float, default=[0.01, 0.03, 0.1])
    options.add_argument("--pairs", nargs="+", default=["fedavg,fedavg_m", "scaffold,scaffold_m"])
    given = options.parse_args()
    made = bench(given, "fedavg-m", {**COMMON, "fraction-train": given.fraction})
    for pair in given.pairs:
        (name, plain), (other, ours) = (best(made, method, given.rates, given.percent, given.seeds) for method in pair.split(","))
        shares = [rounds_to(a, given.percent) / rounds_to(b, given.percent) for a, b in zip(ours, plain, strict=True)]
        print(f"\n{other} takes {spread(shares)} of the rounds of {name} to {given.percent:g} %", flush=True)


if __name__ == "__main__":
    main()

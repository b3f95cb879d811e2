"""FedWon against batch and group normalisation on clients of unlike domains, over five seeds.

    python benchmarks/fedwon.py                                             # digits in four looks, a client each
    python benchmarks/fedwon.py --batch 2                                   # where batch statistics are worst
    python benchmarks/fedwon.py --data path/to/pacs --rounds 15 --examples 400

All arms train as long on the same images with the same network; the tensors of normalisation make a percent of the bytes. Every
arm has the step size of the grid that suits it best at another seed. `worst` is the domain that the global model does worst on.
Batch normalisation is FedAvg's: its statistics are averaged.
"""

from __future__ import annotations

from paired import Arm, Results, accuracy, bench, parser, table

from fedwarm.settings.fields import Value

COMMON: dict[str, Value] = {"data.partition": "domain", "local-epochs": 1, "momentum": 0.9}


def worst(results: Results) -> float:
    """Accuracy of the final global model at the client that it does worst at, in percent."""
    return 100 * float(min(results["rounds"][-1]["global"]["per_client"]))


def main() -> None:
    options = parser(__doc__, 4, 20)
    options.add_argument("--model", default="resnet8")
    options.add_argument("--pixels", type=int, default=16)
    options.add_argument("--batch", type=int, default=32)
    options.add_argument("--rates", nargs="+", type=float, default=[0.03, 0.1, 0.3])
    options.add_argument("--clips", nargs="+", type=float, default=[0.0, 0.16], help="adaptive clipping of FedWon; 0: none")
    options.add_argument("--norms", nargs="+", default=["batch", "group", "none"], help="normalisation of FedAvg, an arm each")
    given = options.parse_args()
    settings: dict[str, Value] = {
        **COMMON, "model.name": given.model, "data.image-size": given.pixels, "batch-size": given.batch,
    }  # fmt: skip
    arms = [Arm(f"fedavg {norm}", "fedavg", {"model.norm": norm}) for norm in given.norms]
    arms += [Arm(f"fedwon clip {clip:g}", "fedwon", {"fedwon.clip": clip}) for clip in given.clips]
    made = bench(given, "fedwon", settings)
    rows = made.all([made.tuned(arm, given.rates, accuracy) for arm in arms], given.seeds)
    print("\n" + table(rows, {"accuracy, %": accuracy, "worst, %": worst}))


if __name__ == "__main__":
    main()

"""Federated SimCLR with and without user verification, over kinds and degrees of skew, paired by seed.

    python benchmarks/fed_simclr.py --data path/to/mnist                       # six kinds of skew, with and without
    python benchmarks/fed_simclr.py --data path/to/femnist --kinds natural     # a writer a client
    python benchmarks/fed_simclr.py --data path/to/mnist --kinds labels --baselines    # beside other losses and methods
    python benchmarks/fed_simclr.py --data path/to/mnist --kinds labels --ablations    # weight, head, rows, temperature
    python benchmarks/fed_simclr.py --data path/to/mnist --kinds labels --finetune fedavg   # on 1, 10 and 100 % of labels

Measured is a linear probe on the frozen encoder, pooled; both arms of a pair share seed, data, first weights and steps. For each
kind: the gain of verification with its standard error, and how well clients are told apart, on their held-out images, where
verification was on. At the end: the rank correlation, over kinds, of the gain with that accuracy. Nine tenths of the data set are
left out as public, which keeps a run short.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from paired import Arm, Bench, Results, accuracy, bench, parser, spread

from fedwarm.settings.fields import Value

Settings = dict[str, Value]
COMMON: Settings = {
    "model.name": "conv4", "data.image-size": 14, "data.public-share": 0.9, "batch-size": 32, "local-epochs": 1,
    "optimiser": "adamw", "learning-rate": 0.002, "contrast.temperature": 0.2, "fed-simclr.bound-images": 40,
    "probe.linear": True, "probe.neighbours": 20, "server-threads": 1,
}  # fmt: skip
KINDS: Mapping[str, Settings] = {
    "labels": {"data.partition": "dirichlet", "data.alpha": 0.1},
    "rotation": {"data.partition": "iid", "data.rotation": 360.0},
    "iid": {"data.partition": "iid"},
    "labels, mild": {"data.partition": "dirichlet", "data.alpha": 1.0},
    "rotation, mild": {"data.partition": "iid", "data.rotation": 90.0},
    "joint": {"data.partition": "dirichlet", "data.alpha": 0.1, "data.rotation": 360.0},
    "natural": {"data.partition": "natural", "data.public-share": 0.0},
}
NATURAL = "natural"  # asked for by name alone: not every data set has writers
WITHOUT, WITH = "without", "with"
SHARES, TUNED = (0.01, 0.1, 1.0), ("fedavg", "centralized")
STEPS = 10  # of a client in a round, where labels are few
BETA: Mapping[str, Settings] = {WITHOUT: {"fed-simclr.beta": 0.0}, WITH: {"fed-simclr.beta": 1.0}}


def probe(results: Results, kind: str = "linear") -> float:
    """Accuracy of the pooled linear probe in percent; NaN where clients share no encoder."""
    found = results["measures"].get("probes")
    return 100 * float(found["pooled"][kind]) if found else math.nan


def neighbours(results: Results) -> float:
    """The same of pooled nearest neighbours."""
    return probe(results, "neighbours")


def by_client(results: Results, kind: str = "linear") -> float:
    """The mean accuracy of clients' own probes, in percent; NaN where clients share no encoder."""
    found = results["measures"].get("probes")
    return 100 * statistics.mean(v for v in found["by_client"][kind] if v is not None) if found else math.nan


def near_by_client(results: Results) -> float:
    """The same of nearest neighbours among a client's own images; of its own encoder where none is shared."""
    own = results["rounds"][-1]["personal"]
    return 100 * statistics.mean(v for v in own["per_client"] if v is not None) if own else by_client(results, "neighbours")


def classifier(results: Results) -> float:
    """Accuracy in percent of the model that was trained with labels, as it is; NaN of an encoder that saw none."""
    return math.nan if results["method"] == "fed_simclr" else accuracy(results)


def last(results: Results, name: str) -> float:
    """What was measured of the bound in the last round."""
    return float(results["measures"]["bound"]["rounds"][-1][name])


def ranks(values: Sequence[float]) -> list[float]:
    order = sorted(values)
    return [order.index(v) + (order.count(v) - 1) / 2 for v in values]


def correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rank correlation."""
    return statistics.correlation(ranks(first), ranks(second))


def pairs(kind: str) -> list[Arm]:
    return [Arm(f"{kind} {name}", "fed_simclr", {**KINDS[kind], **beta}) for name, beta in BETA.items()]


def few(kind: str, labelled: int) -> Settings:
    """So many labelled images a client, and as many passes as make the same number of steps for any number of them."""
    passes = max(1, STEPS // math.ceil(labelled / int(str(COMMON["batch-size"]))))
    return {**KINDS[kind], "data.max-examples": labelled, "local-epochs": passes}


def baselines(kind: str, labelled: int) -> list[Arm]:
    """Other losses with and without verification, nothing shared, labels, and an encoder that learned nothing."""
    losses = ("spectral", "simsiam")
    arms = [
        Arm(f"{kind} {loss} {name}", "fed_simclr", {**KINDS[kind], **beta, "contrast.loss": loss})
        for loss in losses
        for name, beta in BETA.items()
    ]
    tenth = Arm(f"{kind} fedavg on a tenth", "fedavg", few(kind, labelled))
    all_of = Arm(f"{kind} fedavg on all", "fedavg", few(kind, 10 * labelled))
    none = Arm(f"{kind} random encoder", "fedavg", {**KINDS[kind], "learning-rate": 1e-9})
    semi = Arm(f"{kind} a tenth labelled", "fed_simclr", {**KINDS[kind], "fed-simclr.labelled": 0.1})
    alone = Arm(f"{kind} each for itself", "fed_simclr", {**KINDS[kind], "fed-simclr.alone": True})
    return [*arms, alone, tenth, all_of, semi, none]


def ablations(kind: str) -> list[Arm]:
    changed: dict[str, Settings] = {
        "beta 0.1": {"fed-simclr.beta": 0.1},
        "beta 10": {"fed-simclr.beta": 10.0},
        "scale 16": {"fed-simclr.scale": 16.0},
        "linear head": {"fed-simclr.verification": "linear"},
        "average": {"fed-simclr.rows": "average"},
        "codes": {"fed-simclr.rows": "codes"},
        "temperature 0.5": {"contrast.temperature": 0.5},
    }
    return [Arm(f"{kind} {name}", "fed_simclr", {**KINDS[kind], **own}) for name, own in changed.items()]


def finetuned(made: Bench, kind: str, examples: int, seeds: int, methods: Sequence[str]) -> None:
    """The learned encoders, and random weights, tuned on 1, 10 and 100 % of the labels: pooled, and by FedAvg."""
    print("\n| start | tuned | 1 % of the labels | 10 % | 100 % |\n" + "|---" * 5 + "|")
    for start in (WITHOUT, WITH, "random"):
        for method in methods:
            cells = []
            for share in SHARES:
                asked = {**few(kind, max(1, round(share * examples))), "probe.linear": False, "probe.neighbours": 0}
                found = []
                for seed in range(1, seeds + 1):
                    weights = str(made.folder / f"{kind}-{start}-seed-{seed}".replace(" ", "-") / "model.safetensors")
                    own: Settings = {} if start == "random" else {"model.weights": weights}
                    arm = Arm(f"{kind} {start} {method} {share:g}", method, {**asked, **own})
                    found.append(accuracy(made.one(arm, seed)))
                cells.append(spread(found))
            print(f"| {start} | {method} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    options = parser(__doc__, 20, 15)
    options.add_argument("--kinds", nargs="+", default=[kind for kind in KINDS if kind != NATURAL], choices=[*KINDS])
    options.add_argument("--baselines", action="store_true")
    options.add_argument("--ablations", action="store_true")
    options.add_argument("--finetune", nargs="*", default=[], choices=TUNED, help="tune encoders on 1, 10, 100 %% of labels, by")
    options.add_argument("--epochs", type=int, default=1, help="local epochs of a round without labels")
    options.set_defaults(examples=60, seeds=3)
    given = options.parse_args()
    made = bench(given, "fed_simclr", {**COMMON, "local-epochs": given.epochs})
    arms = [arm for kind in given.kinds for arm in pairs(kind)]
    arms += [arm for kind in given.kinds for arm in baselines(kind, given.examples // 10) if given.baselines]
    arms += [arm for kind in given.kinds for arm in ablations(kind) if given.ablations]
    rows = made.all(arms, given.seeds)
    print("\n| skew | without, % | with, % | gain | neighbours, gain | clients told apart, % | bound, without | bound, with |")
    print("|---" * 8 + "|")
    gains, known = [], []
    for kind in given.kinds:
        without, on = (rows[f"{kind} {name}"] for name in (WITHOUT, WITH))
        gain = [probe(b) - probe(a) for a, b in zip(without, on, strict=True)]
        near = [neighbours(b) - neighbours(a) for a, b in zip(without, on, strict=True)]
        apart = [100 * last(r, "client_accuracy") for r in on]
        gains.append(statistics.mean(gain))
        known.append(statistics.mean(apart))
        cells = [spread([*map(probe, without)]), spread([*map(probe, on)]), spread(gain), spread(near), spread(apart)]
        cells += [spread([last(r, "bound") for r in found]) for found in (without, on)]
        print(f"| {kind} | " + " | ".join(cells) + " |")
    if len(given.kinds) > 2:
        print(f"\nrank correlation of gain and telling apart over {len(gains)} kinds: {correlation(gains, known):.2f}")
    shown = {
        "probe, %": probe, "neighbours, %": neighbours, "probe by client, %": by_client,
        "neighbours by client, %": near_by_client, "classifier, %": classifier,
    }  # fmt: skip
    print("\n| arm | " + " | ".join(shown) + " | MB up | s |\n" + "|---" * (len(shown) + 3) + "|")
    for name, found in rows.items():
        totals = (statistics.mean(r["totals"][key] for r in found) for key in ("bytes_up", "seconds"))
        cells = [spread([*map(measure, found)]) for measure in shown.values()]
        up, seconds = totals
        print(f"| {name} | " + " | ".join(cells) + f" | {up * 1e-6:.1f} | {seconds:.0f} |")
    for kind in given.kinds if given.finetune else ():
        finetuned(made, kind, given.examples, given.seeds, given.finetune)


if __name__ == "__main__":
    main()

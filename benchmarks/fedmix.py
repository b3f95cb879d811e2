"""FedMix against its rivals on clients of several kinds, over five paired seeds.

    python benchmarks/fedmix.py --data path/to/mnist                           # four rotations, five clients each
    python benchmarks/fedmix.py --data path/to/mnist --groups labels           # four orders of the labels
    python benchmarks/fedmix.py --data path/to/mnist --groups iid              # all clients alike: what several models cost
    python benchmarks/fedmix.py --data path/to/femnist --groups writers        # a client a writer
    python benchmarks/fedmix.py --data path/to/mnist --groups late             # four clients that join late
    python benchmarks/fedmix.py --data path/to/mnist --groups ablations        # gates, norms, selections, numbers of experts

Every arm sees the same images as often, and has the step size of the grid that suits it best at another seed. `clients` is the
mean over the clients of the accuracy of the model that each would use: the global one, or its own. `tenth` is that of the worst
tenth.
`groups` is the adjusted Rand index of the clients' most used expert against the planted groups: 1 where they are recovered, 0 as
by chance. A `large` network has as many parameters as all experts together.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from paired import Arm, Bench, Results, bench, parser, table
from sklearn.metrics import adjusted_rand_score

from fedwarm.report.grid import drawn
from fedwarm.report.sections.expert_use import shares_of
from fedwarm.settings.fields import Value

COMMON: dict[str, Value] = {
    "local-epochs": 1, "momentum": 0.9, "batch-size": 20, "model.name": "cnn", "data.image-size": 14, "server-threads": 1,
}  # fmt: skip
PLANTED: dict[str, Value] = {"data.name": "planted", "data.partition": "domain"}
GROUPS = 4
LATE = (16, 17, 18, 19)
SPREAD = {"fedmix.gate-warmup": 0, "fedmix.usage-entropy-global": 0.3}
FEDEM = {"fedmix.gate": "bias", "fedmix.norm": "per_client", "fedmix.gate-warmup": 0}


def own(results: Results) -> list[float]:
    """The accuracy, in percent, of the model that each client would use at the end."""
    last = results["rounds"][-1]
    found = last["personal"] or last["global"]
    return [100 * share for share in found["per_client"] if share is not None]


def mean(results: Results) -> float:
    """Of `own`."""
    return statistics.mean(own(results))


def tenth(results: Results) -> float:
    """Of the worst tenth of the clients."""
    worst = sorted(own(results))
    return statistics.mean(worst[: max(1, len(worst) // 10)])


def shared(results: Results) -> float:
    """Of the global model over all test images; NaN where there is none."""
    found = results["final"]["global"]["accuracy"]
    return float("nan") if found is None else 100 * float(found)


def seconds(results: Results) -> float:
    """A round of training, without what only measures: the median, as a machine that does other work stumbles."""
    return statistics.median(stage["seconds"] for stage in results["stages"] if stage["name"] == "round")


def recovered(results: Results) -> float:
    """How well the clients' most used experts are the planted groups; NaN without experts."""
    usage = results.get("measures", {}).get("usage")
    if usage is None:
        return float("nan")
    used = [-1 if row is None else max(range(len(row)), key=row.__getitem__) for row in usage["clients"]]
    return float(adjusted_rand_score([k % GROUPS for k in range(len(used))], used))


def arms(channels: int, large: int, experts: int) -> list[Arm]:
    """FedAvg first, to which differences are told."""
    small, several = {"cnn.channels": channels}, {"cnn.channels": channels, "fedmix.experts": experts}
    return [
        Arm("fedavg", "fedavg", small),
        Arm("fedmix", "fedmix", {**several, **SPREAD}),
        Arm("fedavg large", "fedavg", {"cnn.channels": large}),
        Arm("fedem", "fedmix", {**several, **FEDEM}),
        Arm("ifca", "ifca", {**small, "ifca.clusters": experts}),
        Arm("fedavg and tuning", "fedavg_ft", small),
        Arm("local only", "local_only", small),
    ]


def ablations(channels: int) -> list[Arm]:
    """FedAvg, FedMix as it is in the comparison, and FedMix with one thing changed."""
    base: dict[str, Value] = {"cnn.channels": channels, "fedmix.experts": GROUPS, **SPREAD}
    changes: dict[str, dict[str, Value]] = {
        "fedmix": {}, "gate bias": {"fedmix.gate": "bias"}, "gate trunk": {"fedmix.gate": "trunk"},
        "gate aligned": {"fedmix.gate": "aligned"}, "per client": {"fedmix.norm": "per_client"},
        "threshold": {"fedmix.select": "threshold"}, "top 1 of 4": {"fedmix.select": "top_m"},
        "2 experts": {"fedmix.experts": 2}, "8 experts": {"fedmix.experts": 8}, "noise": {"fedmix.init": "noise"},
        "alike": {"fedmix.init": "noise", "fedmix.init-scale": 0.0}, "warm-up 10": {"fedmix.gate-warmup": 10},
        "no entropy": {"fedmix.usage-entropy-global": 0.0}, "entropy 1": {"fedmix.usage-entropy-global": 1.0},
        "few a client": {"fedmix.usage-entropy-global": 1.0, "fedmix.usage-entropy-client": 0.3},
    }  # fmt: skip
    found = [Arm(name, "fedmix", {**base, **change}) for name, change in changes.items()]
    return [Arm("fedavg", "fedavg", {"cnn.channels": channels}), *found]


def dealt(given: argparse.Namespace) -> dict[str, Value]:
    """Who holds what."""
    if given.groups == "iid":
        return {"data.partition": "iid"}
    if given.groups == "writers":
        return {"data.partition": "natural"}
    change = "labels" if given.groups == "labels" else "rotations"
    return {**PLANTED, "planted.base": given.data, "planted.change": change, "planted.groups": GROUPS}


def joined_late(made: Bench, rate: float, seeds: int, channels: int) -> None:
    """Four clients, one of each group, whose training mostly fails: how well they do before they first train, and after."""
    struck: dict[str, Value] = {
        "faults.kind": "crash", "faults.rate": 0.9, "faults.clients": ",".join(map(str, LATE)),
        "min-replies": made.clients - len(LATE),
    }  # fmt: skip
    settings: dict[str, Value] = {"cnn.channels": channels, **SPREAD, "learning-rate": rate}
    found: dict[str, list[float]] = {"before": [], "first round": [], "second": [], "end, late": [], "end, others": []}
    for seed in range(made.first, made.first + seeds):
        arm = Arm("late", "fedmix", {**settings, **struck})
        results = made.one(arm, seed)
        ledger = [json.loads(line) for line in (made.folder / f"late-seed-{seed}" / "ledger.jsonl").read_text().splitlines()]
        rounds = [entry["personal"]["per_client"] for entry in results["rounds"] if entry["personal"]]
        for client in LATE:
            there = [e["round"] for e in ledger if e["client"] == client and e["stage"] == "round" and not e["failure"]]
            first = there[0] if there else len(rounds) + 1
            if first > 1:
                found["before"].append(100 * rounds[first - 2][client])
            for name, number in (("first round", first), ("second", there[1] if len(there) > 1 else len(rounds) + 1)):
                if number <= len(rounds):
                    found[name].append(100 * rounds[number - 1][client])
        found["end, late"] += [100 * rounds[-1][client] for client in LATE]
        found["end, others"] += [100 * a for client, a in enumerate(rounds[-1]) if client not in LATE]
    for name, values in found.items():
        print(f"{name}: {statistics.mean(values):.1f} of {len(values)}" if values else f"{name}: none")


def columns(groups: str) -> dict[str, Callable[[Results], float]]:
    """What the table shows."""
    found: dict[str, Callable[[Results], float]] = {
        "clients, %": mean,
        "tenth, %": tenth,
        "global, %": shared,
        "s a round": seconds,
    }
    return found if groups in ("iid", "writers") else {**found, "groups": recovered}


def picture(results: Results, path: Path) -> None:
    """Which expert each client uses at the end, clients of a group side by side, as a PNG."""
    every = [shares_of(row) for row in results["measures"]["usage"]["clients"]]
    order = sorted(range(len(every)), key=lambda client: (client % GROUPS, client))
    figure = drawn([every[client] for client in order], "client, those of a group side by side", "expert")
    for axes in figure.axes:
        axes.set_xticks(range(len(order)), [str(client) for client in order])
    figure.savefig(path, dpi=160)


def main() -> None:
    options = parser(__doc__, 20, 15)
    options.set_defaults(examples=100)
    options.add_argument("--groups", default="rotations", choices=("rotations", "labels", "iid", "writers", "late", "ablations"))
    options.add_argument("--experts", type=int, default=GROUPS)
    options.add_argument("--channels", type=int, default=8, help="of a small network, of which there are as many as experts")
    options.add_argument("--large", type=int, default=19, help="of the network with as many parameters as all experts")
    options.add_argument("--tests", type=float, default=0.02, help="share of the images that are tested on")
    options.add_argument("--rates", nargs="+", type=float, default=[0.05, 0.15, 0.4], help="step sizes; of one, none is tuned")
    options.add_argument("--steps", nargs="*", default=[], help="step sizes of arms as NAME=RATE, e.g. as tuned on other data")
    options.add_argument("--picture", type=Path, default=None, help="a PNG of who uses which expert in the last run of FedMix")
    options.add_argument("--only", nargs="*", default=[], help="the arms to run, FedAvg first; empty: all")
    given = options.parse_args()
    made = bench(given, f"fedmix-{given.groups}", {**COMMON, "data.test-fraction": given.tests})
    made = replace(made, settings={**made.settings, **dealt(given)})
    if given.groups == "late":
        return joined_late(made, given.rates[0], given.seeds, given.channels)
    chosen = ablations(given.channels) if given.groups == "ablations" else arms(given.channels, given.large, given.experts)
    chosen = [arm for arm in chosen if arm.name in given.only] if given.only else chosen
    steps = {name: float(rate) for name, _, rate in (told.rpartition("=") for told in given.steps)}
    fixed = {arm.name: steps.get(arm.name, given.rates[0]) for arm in chosen if arm.name in steps or len(given.rates) == 1}
    tuned = [_at(arm, fixed[arm.name]) if arm.name in fixed else made.tuned(arm, given.rates, mean) for arm in chosen]
    rows = made.all(tuned, given.seeds)
    if given.picture is not None:
        picture(next(results[-1] for name, results in rows.items() if name.startswith("fedmix")), given.picture)
    shown = columns(given.groups)
    for name, results in rows.items():
        told = {column: [round(shown[column](r), 2) for r in results] for column in ("clients, %", "groups") if column in shown}
        print(f"{name}, seed by seed: " + ", ".join(f"{column} {values}" for column, values in told.items()))
    print("\n" + table(rows, shown))


def _at(arm: Arm, rate: float) -> Arm:
    return Arm(f"{arm.name}, step size {rate:g}", arm.method, {**arm.settings, "learning-rate": rate})


if __name__ == "__main__":
    main()

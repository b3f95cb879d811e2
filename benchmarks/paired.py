"""Arms of a comparison at the same seeds: each seed's difference to the first arm is one number, and their mean has an error.

Step sizes are chosen for each arm alone, from the same grid and at a seed that is not among those of the table. A run that is
complete in the folder is not run again. What a comparison says (arms, differences and their errors) is the package's own, see
`fedwarm study`, which needs no script.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kept import kept

from fedwarm.core.failures import RunError
from fedwarm.launch.run import Request, run_method
from fedwarm.launch.study_file import Arm as Arm
from fedwarm.report.paired import difference
from fedwarm.report.paired import spread_text as spread
from fedwarm.settings.fields import Value

ROOT = Path(__file__).parents[1]
TUNING_SEED = 101
PLAIN = 10.0  # how much longer steps without momentum are, for as long a way
RIVALS: Mapping[str, tuple[str, dict[str, Value]]] = {
    "FedAvg": ("fedavg", {}),
    "FedProx": ("fedprox", {"fedprox.mu": 0.01}),
    "SCAFFOLD": ("scaffold", {"momentum": 0.0}),
    "local only": ("local_only", {}),
    "centralized": ("centralized", {}),
}
Results = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """What all arms of a comparison share: settings, clients, rounds, folder of the runs, worker processes, first seed."""

    settings: Mapping[str, Value]
    clients: int
    rounds: int
    folder: Path
    workers: int = 0
    first: int = 1

    def one(self, arm: Arm, seed: int) -> Results:
        """The results of one run."""
        out = self.folder / f"{arm.name.replace(' ', '-').replace(',', '')}-seed-{seed}"
        asked: dict[str, Value] = {**self.settings, **arm.settings}
        found = kept(out, {**asked, "num-server-rounds": self.rounds}, self.clients)
        if found is None:
            print(f"== {arm.name}, seed {seed}", flush=True)
            told = tuple(f"{key}={json.dumps(value)}" for key, value in asked.items())
            asked_of = (arm.method, "local", out, seed, self.rounds, self.clients, self.workers)
            run_method(Request(*asked_of, fresh=True, run_config=told))
            found = json.loads((out / "results.json").read_text())
        return dict(found)

    def tuned(self, arm: Arm, rates: Sequence[float], better: Callable[[Results], float]) -> Arm:
        """The arm at the step size of the grid for which `better` is largest at the tuning seed; one that breaks is the worst."""

        def value(rate: float) -> float:
            settings = {**arm.settings, "learning-rate": rate}
            try:
                return better(self.one(Arm(f"{arm.name} at {rate:g}", arm.method, settings), TUNING_SEED))
            except RunError as error:
                print(f"{arm.name} at {rate:g}: {error}", flush=True)
                return -math.inf

        found = {rate: value(rate) for rate in rates}
        best = max(found, key=found.__getitem__)
        print(f"{arm.name}: " + ", ".join(f"{rate:g} gives {value:.1f}" for rate, value in found.items()), flush=True)
        return Arm(f"{arm.name}, step size {best:g}", arm.method, {**arm.settings, "learning-rate": best})

    def all(self, arms: Sequence[Arm], seeds: int, first: int = 0) -> dict[str, list[Results]]:
        """The results of all arms at `seeds` seeds from a first one on, seed by seed; 0: the comparison's own."""
        first = first or self.first
        rows: dict[str, list[Results]] = {arm.name: [] for arm in arms}
        for seed in range(first, first + seeds):
            for arm in arms:
                rows[arm.name].append(self.one(arm, seed))
        return rows


def grid(rates: Sequence[float], settings: Mapping[str, Value]) -> list[float]:
    """The step sizes that an arm of these settings is tried at, by those of arms with momentum."""
    return [rate if settings.get("momentum") != 0.0 else PLAIN * rate for rate in rates]


def used(results: Results) -> dict[str, Any]:
    """What was measured last of the models that clients would use: their own where a method gives these, else the global one."""
    last = results["rounds"][-1]
    return dict(last["personal"] or last["global"])


def accuracies(results: Results) -> list[float]:
    """Of the models that clients would use on their own test examples, in percent."""
    return [100 * float(share) for share in used(results)["per_client"]]


def accuracy(results: Results) -> float:
    """Of the final global model, in percent."""
    return 100 * float(results["final"]["global"]["accuracy"])


def rounds_to(results: Results, percent: float) -> float:
    """Rounds until the global model first has that accuracy; one more than there were where it never has."""
    reached = (r["round"] for r in results["rounds"] if 100 * r["global"]["accuracy"] >= percent)
    return float(next(reached, len(results["rounds"]) + 1))


def interval(values: Sequence[float]) -> str:
    """The mean's 95 % interval by Student's t; empty for fewer than three values, or where there is nothing to measure."""
    if len(values) < 3 or any(map(math.isnan, values)):
        return ""
    found = difference(values, [0.0] * len(values))
    return f"{found.low:.2f} to {found.high:.2f}"


def table(rows: Mapping[str, Sequence[Results]], columns: Mapping[str, Callable[[Results], float]]) -> str:
    """A line an arm: each column's mean, and the first column's difference to the first arm, seed by seed, with its interval."""
    first, base = next(iter(columns.values())), [*next(iter(rows.values()))]
    heads = ["arm", *columns, "difference to the first arm", "95 % interval", "MB up", "MB down", "s"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, results in rows.items():
        gaps = [first(r) - first(b) for r, b in zip(results, base, strict=True)]
        totals = [
            [r["totals"][key] * scale for r in results]
            for key, scale in (("bytes_up", 1e-6), ("bytes_down", 1e-6), ("seconds", 1))
        ]
        cells = [*(spread([column(r) for r in results]) for column in columns.values()), spread(gaps), interval(gaps)]
        lines.append("| " + " | ".join([name, *cells, *(f"{statistics.mean(t):.1f}" for t in totals)]) + " |")
    return "\n".join(lines)


def parser(text: str | None, clients: int, rounds: int) -> argparse.ArgumentParser:
    """The options of every comparison."""
    made = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--data", default="digits", help="digits, a folder of parquet files, or a Hub name")
    made.add_argument("--seeds", type=int, default=5)
    made.add_argument("--first", type=int, default=1, help="the first seed; from 101 on they are in no table")
    made.add_argument("--clients", type=int, default=clients)
    made.add_argument("--rounds", type=int, default=rounds)
    made.add_argument("--examples", type=int, default=0, help="most training images of a client; 0: all")
    made.add_argument("--runs", type=Path, default=None, help="folder of the runs")
    made.add_argument("--workers", type=int, default=0, help="worker processes; 0: as many as there are cores")
    return made


def bench(given: argparse.Namespace, name: str, settings: Mapping[str, Value]) -> Bench:
    """The comparison that the options ask for; `name` is its folder below ./runs where none is given."""
    own: dict[str, Value] = {"data.name": given.data, "data.max-examples": given.examples}
    folder = (given.runs or ROOT / "runs" / name).absolute()
    return Bench({**settings, **own}, given.clients, given.rounds, folder, given.workers, given.first)

"""DP-REC and its rivals at equal certified epsilon and equal rounds, over five seeds; prints a table a view and draws its page.

    python benchmarks/dp_rec.py mnist --data path/to/mnist [--views central,local] [--seeds 1,2] [--jobs 2] [--quick]
    python benchmarks/dp_rec.py femnist --data path/to/femnist

All arms share model, clients, rounds, clip, step sizes and equal weights; they differ in what leaves a client: the clipped
update (no privacy), the same with Gaussian noise (32 bits a number), code words of b bits a block, code words of exactly the
noised update (poisson), or the update rounded to 2 to 4 bits a number, to which the server adds the noise. Sigma of each arm is
made for the same certified epsilon.

- central: the server is trusted with secret seeds and cohorts, and in the last arms with the noise.
- local: nobody is trusted, and every client takes part in every round; only noise of the client's own and code words can be.

Settings were chosen on seed 0 with the Gaussian mechanism. Private draws come from the operating system, so that figures differ a
little from call to call. A run that is complete in the folder is not run again, one that was broken off is resumed. `--jobs` runs
go at a time, one core each. `--quick` tries all of it at a tiny size.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from fedwarm.catalogue import parse
from fedwarm.cli.settings import literal
from fedwarm.data.settings import Data
from fedwarm.data.shards import load_pooled
from fedwarm.launch.run import Request, run_method
from fedwarm.models import Model, build_model
from fedwarm.record.checkpoint import exists
from fedwarm.report.page import make_report
from fedwarm.settings.fields import SettingError, Value
from fedwarm.training.evaluate import correct

ROOT = Path(__file__).parents[1]
ARMS: dict[str, dict[str, Value]] = {
    "no privacy": {"dp-rec.mechanism": "none"},
    "Gaussian at the clients": {"dp-rec.mechanism": "gaussian"},
    **{f"DP-REC, b = {b}": {"dp-rec.mechanism": "coding", "dp-rec.bits": b} for b in (4, 7, 10)},
    "poisson": {"dp-rec.mechanism": "poisson"},
    **{f"rounded to {b} bits, noise at the server": {"dp-rec.mechanism": "server", "dp-rec.bits": b} for b in (2, 3, 4)},
}
NAMES = dict(zip(("none", "gaussian", "4", "7", "10", "poisson", "server-2", "server-3", "server-4"), ARMS, strict=True))
TRUSTING = ("poisson", "server")
HEADINGS = (
    "arm", "accuracy, %", "bits of an update", "bytes up a message, on the wire", "of dense FedAvg's", "epsilon", "sigma", "s"
)  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """What all arms of a table share."""

    clients: int
    rounds: int
    settings: dict[str, Value]
    local: bool = False

    def of(self, arm: str) -> dict[str, Value]:
        """An arm's settings."""
        return {**self.settings, **ARMS[arm], "dp-rec.view": "local" if self.local else "central_certified"}

    def has(self, arm: str) -> bool:
        """Whether an arm can be in this view."""
        return not (self.local and ARMS[arm]["dp-rec.mechanism"] in TRUSTING)

    @property
    def tiny(self) -> Trial:
        return replace(self, clients=20, rounds=2, settings={**self.settings, "data.max-examples": 8})


COMMON: dict[str, Value] = {"model.name": "logistic", "momentum": 0.0, "batch-size": 16, "server-threads": 1}
MNIST: dict[str, Value] = {**COMMON, "data.partition": "iid", "data.max-examples": 64, "data.image-size": 16, "local-epochs": 3}
FEMNIST: dict[str, Value] = {
    **COMMON, "data.partition": "natural", "data.partition-by": "writer_id", "data.image-size": 12, "local-epochs": 2,
    "dp-rec.server-momentum": 0.9,
}  # fmt: skip


def _private(fraction: float, epsilon: float, learning_rate: float, clip: float) -> dict[str, Value]:
    target: dict[str, Value] = {"dp-rec.target-epsilon": epsilon, "dp-rec.clip": clip}
    return {"fraction-train": fraction, "learning-rate": learning_rate, **target}


TRIALS: dict[str, dict[str, Trial]] = {
    "mnist": {
        "central": Trial(500, 20, {**MNIST, **_private(0.2, 1.0, 0.05, 0.5)}),
        "local": Trial(500, 6, {**MNIST, **_private(1.0, 8.0, 0.02, 0.3)}, local=True),
    },
    "femnist": {"central": Trial(400, 20, {**FEMNIST, **_private(0.2, 4.0, 0.05, 0.5)})},
}


@dataclass(frozen=True)
class Job:
    """One run: its folder, method, clients, rounds, seed and settings."""

    folder: Path
    method: str
    clients: int
    rounds: int
    seed: int
    settings: dict[str, Value]

    @property
    def request(self) -> Request:
        pairs = tuple(f"{key}={literal(value)}" for key, value in self.settings.items())
        resume = exists(self.folder)
        held = (self.folder / "results.json").is_file()
        place = Request(self.method, out=self.folder, resume=resume, fresh=held and not resume, run_config=pairs)
        return replace(place, seed=self.seed, rounds=self.rounds, clients=self.clients, workers=1)


def results_of(folder: Path) -> dict[str, Any] | None:
    """What a complete run reached, None where there is none."""
    path = folder / "results.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"complete": False}
    return found if found["complete"] else None


ELSEWHERE = ("out", "client-folder", "data.name", "dp-rec.noise-multiplier")
"""Settings that a kept run may have otherwise: places, and the noise, which `target-epsilon` decides in all arms."""


def run(job: Job) -> Path:
    """The run's folder, after the run where it is not complete yet.

    Raises:
        SettingError: the folder holds a run with other settings.
    """
    found = results_of(job.folder)
    if found is None:
        print(f"== {job.folder.name}", file=sys.stderr, flush=True)
        with redirect_stdout(sys.stderr):
            return run_method(job.request)
    asked = parse({**job.settings, "method": job.method, "seed": job.seed, "num-server-rounds": job.rounds}).flat()
    for key, value in asked.items():
        if key in found["settings"] and key not in ELSEWHERE and found["settings"][key] != value:
            raise SettingError(f"{job.folder} holds a run with {key} = {found['settings'][key]!r}, not {value!r}; remove it")
    return job.folder


def jobs_of(trial: Trial, folder: Path, seeds: Iterable[int], chosen: Iterable[str] = tuple(ARMS)) -> dict[str, list[Job]]:
    """The runs of each arm."""
    slugs = {arm: "-".join(str(value) for value in ARMS[arm].values()) for arm in chosen}
    place = partial(Job, method="dp_rec", clients=trial.clients, rounds=trial.rounds)
    return {
        arm: [place(folder / f"{slugs[arm]}-seed-{seed}", seed=seed, settings=trial.of(arm)) for seed in seeds] for arm in slugs
    }


def messages(folder: Path) -> list[dict[str, Any]]:
    """What the ledger says of replies in the rounds of training."""
    entries = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    return [entry for entry in entries if entry["stage"] == "round" and not entry["failure"]]


def bytes_of(folder: Path, name: str) -> float:
    """Mean bytes a message."""
    return statistics.fmean(entry[name] for entry in messages(folder))


def spread(values: Iterable[float], form: str) -> str:
    """Mean and sample standard deviation."""
    found = list(values)
    return f"{statistics.fmean(found):{form}}" + (f" ± {statistics.stdev(found):{form}}" if len(found) > 1 else "")


@lru_cache(maxsize=2)
def test_images(settings: str, clients: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Those of all clients together, as a run with these settings deals them."""
    config = parse(json.loads(settings))
    pooled = load_pooled(config.of(Data), config.run.seed, clients)
    return pooled.test_images, pooled.test_labels


def accuracy(folder: Path) -> float:
    """Of a run's final model, in percent, on all clients' test images.

    Private runs tell right answers per hundred of each client, so that what stands in their results weighs clients alike, and
    in those of others by their images.
    """
    found = json.loads((folder / "results.json").read_text())
    config, clients = parse(found["settings"]), found["partition"]["clients"]
    dealt = {key: value for key, value in found["settings"].items() if key.startswith("data.") or key == "seed"}
    images, labels = test_images(json.dumps({"method": "fedavg", **dealt}), clients)
    model = build_model(config.of(Model), len(found["partition"]["classes"]), config.of(Data).image_size, 0)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return 100 * correct(model, images, labels) / len(labels)


def row(arm: str, folders: list[Path], dense_bytes: float) -> str:
    """One line of the table."""
    found = [json.loads((folder / "results.json").read_text()) for folder in folders]
    told = found[0]["privacy"]
    up = statistics.fmean(bytes_of(folder, "wire_bytes_up") for folder in folders)
    cells = [
        arm,
        spread(map(accuracy, folders), ".1f"),
        f"{8 * statistics.fmean(bytes_of(folder, 'payload_bytes_up') for folder in folders):,.0f}",
        f"{up:,.0f}",
        f"{up / dense_bytes:.2g} (1/{dense_bytes / up:,.0f})" if up < dense_bytes / 2 else f"{up / dense_bytes:.2f}",
        "-" if told is None else f"{max(r['privacy']['epsilon'] for r in found):.3f}",
        "-" if told is None else f"{told['sigma']:.4g}",
        f"{statistics.fmean(r['totals']['seconds'] for r in found):,.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def compared(trial: Trial, folder: Path, seeds: list[int], chosen: list[str], pool: ProcessPoolExecutor) -> list[str]:
    """Run what is missing of a trial; its table. The page that compares the runs is `report.html` in the folder."""
    arms = jobs_of(trial, folder, seeds, chosen)
    own = {key: value for key, value in trial.settings.items() if not key.startswith("dp-rec.")}
    dense = Job(folder / "dense-fedavg", "fedavg", 2, 1, seeds[0], {**own, "fraction-train": 1.0})
    every = [job for members in arms.values() for job in members]
    list(pool.map(run, sorted([dense, *every], key=lambda job: -int(job.settings.get("dp-rec.bits", 0)))))
    make_report([job.folder for job in every], folder / "report.html")
    rows = [row(arm, [job.folder for job in members], bytes_of(dense.folder, "wire_bytes_up")) for arm, members in arms.items()]
    return ["| " + " | ".join(HEADINGS) + " |", "|---" * len(HEADINGS) + "|", *rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=tuple(TRIALS))
    parser.add_argument("--data", required=True, type=Path, help="folder of parquet files")
    parser.add_argument("--views", default="central,local")
    parser.add_argument("--seeds", default="1,2,3,4,5")
    parser.add_argument("--arms", default=",".join(NAMES), help="of these; 10 takes longest")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "dp-rec")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    chosen = [NAMES[name] for name in arguments.arms.split(",")]
    tables = []
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        for view, trial in TRIALS[arguments.set].items():
            if view not in arguments.views.split(","):
                continue
            trial = replace(trial, settings={**trial.settings, "data.name": str(arguments.data.absolute())})
            trial = trial.tiny if arguments.quick else trial
            arms = [arm for arm in chosen if trial.has(arm)]
            folder = arguments.runs / "-".join([arguments.set, view] + ["quick"] * arguments.quick)
            title = f"{arguments.set}, {view}: {trial.clients} clients, {trial.rounds} rounds, seeds {arguments.seeds}"
            tables.append([f"\n{title}; {folder / 'report.html'}\n", *compared(trial, folder, seeds, arms, pool)])
    print("\n".join(line for table in tables for line in table))


if __name__ == "__main__":
    main()

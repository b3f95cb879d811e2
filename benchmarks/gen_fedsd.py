"""What filling class gaps is worth: FedAvg, FedProx and SCAFFOLD with and without Gen-FedSD, over partitions and three seeds.

    python benchmarks/gen_fedsd.py digits                                            # with the embedded foundation
    python benchmarks/gen_fedsd.py mnist --data path/to/mnist --foundation path      # of `fedwarm foundation train`
    python benchmarks/gen_fedsd.py fashion --data path/to/fashion_mnist --foundation path
    python benchmarks/gen_fedsd.py digits --partitions "dirichlet 0.1" --methods fedavg --clients 10 --seeds 1

Training sets are small on purpose (their size is printed): that is where clients lack data. Half of MNIST and Fashion-MNIST is
public: the foundation learned from it, and no client holds it. Two controls stand beside: FedAvg with five times the local
epochs, as synthetic images mean more local steps, too; and classes balanced by random transforms of a client's own images.
SCAFFOLD takes steps without momentum, as in its paper: with it, control variates that are rounds old throw unlike clients off. A
run that is complete in the folder is not run again; drawn images are kept in the folder, too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kept import kept

from fedwarm.launch.run import Request, run_method
from fedwarm.settings.fields import SettingError, Value

ROOT = Path(__file__).parents[1]
PARTITIONS: dict[str, dict[str, Value]] = {
    "dirichlet 0.05": {"data.partition": "dirichlet", "data.alpha": 0.05},
    "dirichlet 0.1": {"data.partition": "dirichlet", "data.alpha": 0.1},
    "dirichlet 0.5": {"data.partition": "dirichlet", "data.alpha": 0.5},
    "two classes": {"data.partition": "pathological", "data.classes-per-client": 2},
}
METHODS: dict[str, dict[str, Value]] = {"fedavg": {}, "fedprox": {}, "scaffold": {"momentum": 0.0, "learning-rate": 0.05}}
FILLED: dict[str, Value] = {"augment": "gen-fedsd", "gen-fedsd.pool": 200}
CONTROLS: dict[str, dict[str, Value]] = {
    "more steps": {"local-epochs": 10},
    "transforms": {"augment": "gen-fedsd", "gen-fedsd.provider": "transforms", "gen-fedsd.transforms": "crop"},
}
COMMON: dict[str, Value] = {
    "data.image-size": 16, "local-epochs": 2, "learning-rate": 0.02, "momentum": 0.9, "save-pictures": False,
}  # fmt: skip
SIZES: dict[str, dict[int, dict[str, Value]]] = {
    "digits": {10: {"fraction-train": 0.5}, 50: {"fraction-train": 0.2}},
    "mnist": {
        10: {"fraction-train": 0.5, "data.max-examples": 130, "data.public-share": 0.5, "data.test-fraction": 0.1},
        50: {"fraction-train": 0.2, "data.max-examples": 26, "data.public-share": 0.5, "data.test-fraction": 0.1},
    },
}
SIZES["fashion"] = SIZES["mnist"]
ROUNDS, LAST, AUDIT_EPOCHS = 20, 5, 10


@dataclass(frozen=True)
class Job:
    """One run."""

    method: str
    seed: int
    clients: int
    rounds: int
    settings: dict[str, Value]
    folder: Path


def run(job: Job) -> dict[str, Any]:
    """A run's results, from its folder if they are complete there; SystemExit if the folder holds another run."""
    found = kept(job.folder, {**job.settings, "num-server-rounds": job.rounds}, job.clients)
    if found is None:
        settings = tuple(f"{key}={json.dumps(value)}" for key, value in job.settings.items())
        run_method(
            Request(job.method, "local", job.folder, job.seed, job.rounds, job.clients, 1, fresh=True, run_config=settings)
        )
        found = json.loads((job.folder / "results.json").read_text())
    return found


def curve(results: dict[str, Any]) -> list[tuple[float, int]]:
    """Accuracy and bytes sent so far, both ways, after each round."""
    sent, out = 0, []
    for entry in results["rounds"]:
        sent += sum(entry["bytes_up"]) + sum(entry["bytes_down"])
        if entry["global"]["accuracy"] is not None:
            out.append((entry["global"]["accuracy"], sent))
    return out


def reached(results: dict[str, Any], target: float) -> tuple[int, int] | None:
    """The first round, and the bytes up to it, with an accuracy of at least `target`."""
    return next(((i + 1, sent) for i, (accuracy, sent) in enumerate(curve(results)) if accuracy >= target), None)


def spread(values: Iterable[float], form: str = ".1f") -> str:
    """Mean and sample standard deviation."""
    found = list(values)
    return f"{statistics.fmean(found):{form}}" + (f" ± {statistics.stdev(found):{form}}" if len(found) > 1 else "")


def final(results: dict[str, Any]) -> float:
    """Mean accuracy of the last five rounds in percent: with unlike clients in turn, one round's swings."""
    return 100 * statistics.fmean(accuracy for accuracy, _ in curve(results)[-LAST:])


def drawn(results: dict[str, Any]) -> tuple[int, float]:
    """Synthetic images of all clients, and the seconds that drawing them would take each client by itself, in the mean."""
    told = results.get("augment")
    if not told:
        return 0, 0.0
    each = told["per_client"]
    return sum(sum(client["synthetic"]) for client in each), statistics.fmean(client["drawn_seconds"] for client in each)


def line(label: str, runs: list[dict[str, Any]], plain: list[dict[str, Any]]) -> str:
    """One row: accuracy, gain over plain FedAvg, rounds and bytes to what plain FedAvg ends with, and the cost."""
    gains = [final(a) - final(b) for a, b in zip(runs, plain, strict=True)]
    there = [reached(a, final(b) / 100 - 1e-9) for a, b in zip(runs, plain, strict=True)]
    bytes_of = [curve(b)[-1][1] for b in plain]
    rounds = "not by all" if None in there else spread([found[0] for found in there if found is not None], ".0f")
    share = (
        "-" if None in there else spread([f[1] / total for f, total in zip(there, bytes_of, strict=True) if f is not None], ".2f")
    )
    images, seconds = (statistics.fmean(column) for column in zip(*map(drawn, runs), strict=True))
    cells = [label, spread(map(final, runs)), spread(gains), rounds, share, f"{images:,.0f}", f"{seconds:,.0f}"]
    return "| " + " | ".join(cells) + " |"


def audited(job: Job) -> str:
    """Whether the images show their classes, and what they teach by themselves, on all clients' images of one run."""
    from fedwarm.augmentations.gen_fedsd.audit import audit
    from fedwarm.catalogue import parse
    from fedwarm.core.store import cache_home

    config = parse({**job.settings, "method": job.method, "seed": job.seed})
    gap = audit(config, job.clients, range(job.clients), cache_home(), AUDIT_EPOCHS)
    return "nothing was drawn" if gap is None else gap.text()


HEADINGS = (
    "training", "accuracy", "gain over plain FedAvg", "rounds to its end", "bytes to it / its bytes", "images", "s a client",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=SIZES)
    parser.add_argument("--data", default="digits", help="folder of parquet files, or a Hub name")
    parser.add_argument("--foundation", default="glyph", help="a pipeline that has seen public images alone")
    parser.add_argument("--partitions", nargs="+", choices=PARTITIONS, default=list(PARTITIONS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--clients", nargs="+", type=int, default=[10, 50])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--steps", type=int, default=8, help="denoising steps of an image")
    parser.add_argument("--guidance", type=float, default=1.5)
    parser.add_argument("--no-controls", action="store_true", help="leave out `more steps` and `transforms`")
    parser.add_argument("--audit", action="store_true", help="what synthetic images show and teach, of the first seed")
    parser.add_argument("--jobs", type=int, default=1, help="processes, of one torch thread each")
    parser.add_argument("--runs", type=Path, default=None)
    given = parser.parse_args()
    folder = (given.runs or ROOT / "runs" / f"gen-fedsd-{given.what}").absolute()
    os.environ["XDG_CACHE_HOME"] = str(folder / "images")
    shared: dict[str, Value] = {
        **COMMON, "data.name": given.data, "diffusion.foundation": given.foundation,
        "gen-fedsd.steps": given.steps, "gen-fedsd.guidance": given.guidance,
    }  # fmt: skip
    controls = {} if given.no_controls else CONTROLS
    arms: dict[str, tuple[str, dict[str, Value]]] = {}
    for method in given.methods:
        own = METHODS[method]
        arms |= {method: (method, own), f"{method} + gen-fedsd": (method, {**own, **FILLED})}
    arms |= {f"fedavg, {name}": ("fedavg", own) for name, own in controls.items()}
    arms.setdefault("fedavg", ("fedavg", {}))
    with ProcessPoolExecutor(given.jobs) as pool:
        for clients in given.clients:
            size = SIZES[given.what].get(clients, {"fraction-train": 0.5})
            for name in given.partitions:
                jobs = {
                    arm: [
                        Job(
                            method, seed, clients, given.rounds, {**shared, **size, **PARTITIONS[name], **own},
                            folder / f"{clients} {name} {arm} {seed}".replace(" ", "-").replace(",", ""),
                        )
                        for seed in range(1, given.seeds + 1)
                    ]
                    for arm, (method, own) in arms.items()
                }  # fmt: skip
                flat = [job for row in jobs.values() for job in row]
                try:
                    done = dict(zip((job.folder for job in flat), pool.map(run, flat), strict=True))
                except SettingError as error:  # so many clients cannot be that unlike on so few images
                    print(f"\n**{given.what}, {name}, {clients} clients**: not run: {error}", flush=True)
                    continue
                rows = {arm: [done[job.folder] for job in row] for arm, row in jobs.items()}
                held = statistics.fmean(sum(map(sum, r["partition"]["counts"])) for r in rows["fedavg"])
                print(f"\n**{given.what}, {name}, {clients} clients** ({held:,.0f} training images)\n")
                print("| " + " | ".join(HEADINGS) + " |\n" + "|---" * len(HEADINGS) + "|")
                print("\n".join(line(arm, runs, rows["fedavg"]) for arm, runs in rows.items()), flush=True)
                if given.audit:
                    print("\n" + audited(next(row[0] for arm, row in jobs.items() if "gen-fedsd" in arm)), flush=True)


if __name__ == "__main__":
    main()

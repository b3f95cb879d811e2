"""The same work by this engine, by Flower's simulation (`flwr run`), by pfl-research and by fluke, start included.

python benchmarks/head_to_head.py --data path/to/mnist --keep head-to-head
python benchmarks/head_to_head.py --data path/to/mnist --keep head-to-head --device cuda

FedAvg with the small CNN: 100 clients of MNIST with 96 images each, 5 rounds of 2 epochs in batches of 32 by SGD, from the same
weights, measured on the same 10,000 test images after each round. Each library gets two cores. Wall seconds hang on what else the
machine does; CPU seconds, user and system of the command and of all that it started, do so much less. Runs go in turn, and
the median of each counts. Accuracies must agree: batches are drawn by each library's own generator.

`--keep` is a folder where each run's cost is written as soon as it is known: the same command goes on where it was ended. There
pfl and fluke get an environment of their own, made by uv (`--rivals` names the Python of one that there is); what does not
install is left out, and said to be. Flower runs as its users run it: `flwr run` with a home and ports of its own, first its
daemon, then Ray; both are ended after each run. All read the same tensors from a file, as what prepares them does not count.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from rivals import FOUND, WORK

OURS, FLOWER = "this engine", "Flower's simulation (`flwr run`)"
PACKAGES = {"pfl-research": ("pfl", "pfl[pytorch]"), "fluke": ("fluke", "fluke-fl")}  # what is imported, and what is installed
PORTS = {"FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": "39291", "FLWR_LOCAL_CONTROL_API_PORT": "39293"}
CLIENTS, IMAGES, ROUNDS, CORES, REPEATS = 100, 96, 5, 2, 3
AGREE = 0.03
SUBREAPER = 36  # of prctl: whatever a command leaves behind becomes this process's, and its seconds count
ENDED_SECONDS = 10.0
HERE = Path(__file__).parent
LOADER = """import torch

def load():
    work = torch.load({path!r}, weights_only=True)
    parts = [*work["train"], work["test"]]
    clients = len(work["train"])
    found = {{"inputs": torch.cat([x for x, _ in parts]), "targets": torch.cat([y for _, y in parts])}}
    sites = [[i] * len(y) for i, (_, y) in enumerate(work["train"])] + [[i % clients for i in range(len(work["test"][1]))]]
    found["site"] = sum(sites, [])
    found["split"] = ["train"] * (len(found["site"]) - len(work["test"][1])) + ["test"] * len(work["test"][1])
    return found
"""


@dataclass(frozen=True)
class Cost:
    """What a command took: seconds, seconds of cores, and the accuracy that it ended at."""

    wall: float
    cpu: float
    accuracy: float


def settings(data: str, rounds: int, device: str = "cpu") -> dict[str, str | int]:
    """This engine's run, of a data set that says whose an image is."""
    own = {"data.name": data, "data.partition": "natural", "data.test": "split", "num-server-rounds": rounds}
    return {**own, "local-epochs": 2, "batch-size": 32, "device": device}


def prepare(folder: Path, data: str, clients: int, rounds: int, device: str) -> None:
    """Write the work down: each client's images, all test images, the first weights, the plan; and Flower's app."""
    from fedwarm.catalogue import parse
    from fedwarm.data import load_shard
    from fedwarm.data.settings import Data
    from fedwarm.flower.writing import write_app
    from fedwarm.models import Model, build_model

    given = {"data.name": data, "data.partition": "iid", "data.test": "split", "data.max-examples": IMAGES}
    config = parse({"method": "fedavg", **settings("digits", rounds), **given})
    run, shards = config.run, [load_shard(config.of(Data), config.run.seed, i, clients) for i in range(clients)]
    tests = torch.cat([s.test_images for s in shards]), torch.cat([s.test_labels for s in shards])
    state = build_model(config.of(Model), len(shards[0].classes), config.of(Data).image_size, run.seed).state_dict()
    numbers = {"rounds": rounds, "epochs": run.local_epochs, "batch": run.batch_size, "rate": run.learning_rate}
    train = [(s.train_images, s.train_labels) for s in shards]
    torch.save(
        {"train": train, "test": tests, "state": state, "momentum": run.momentum, "device": device, **numbers}, folder / WORK
    )
    (folder / "prepared.py").write_text(LOADER.format(path=str(folder / WORK)))
    parts = {"server": "rival_flower:server", "client": "rival_flower:client"}
    app = write_app(folder / "app", {"folder": str(folder)}, name="head-to-head", **parts)
    for module in ("rivals.py", "rival_flower.py"):
        shutil.copy(HERE / module, app / module)


def commands(folder: Path, clients: int, rounds: int, device: str, python: str) -> dict[str, list[str]]:
    """What is run, by name."""
    text = " ".join(f"{key}={json.dumps(value)}" for key, value in settings("prepared:load", rounds, device).items())
    here = Path(sys.executable).parent
    ours = [str(here / "fedwarm"), "run", "fedavg", "--clients", str(clients), "--out", str(folder / "run"), "-c", text]
    share = 1 / CORES if device == "cuda" else 0.0
    given = {"num-supernodes": clients, "client-resources-num-cpus": 1, "client-resources-num-gpus": share}
    federation = " ".join(f"{key}={value}" for key, value in {**given, "init-args-num-cpus": CORES}.items())
    found = {OURS: ours, FLOWER: [str(here / "flwr"), "run", str(folder / "app"), "--stream", "--federation-config", federation]}
    for name, (module, _) in PACKAGES.items():
        if python and subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode == 0:
            found[name] = [python, str(HERE / "rivals.py"), module, str(folder)]
        else:
            print(f"{name} is left out: it is not installed for {python or 'any Python'}")
    return found


def environment(folder: Path) -> str:
    """The Python of an environment that has what of the others can be installed; made where it is not there yet."""
    uv, place = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}"), folder / "rivals"
    python = place / "bin" / "python"
    if uv is None:
        print("uv is not here; `pip install uv`, or name an environment by --rivals")
        return ""
    if not (place / "made").is_file():
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(place)], check=True)
        for _, package in PACKAGES.values():
            subprocess.run([uv, "pip", "install", "--quiet", "--python", str(python), package])
        (place / "made").touch()
    return str(python)


def measured(name: str, command: list[str], folder: Path, device: str) -> Cost:
    """Run a command on the first cores, as a process of its own that waits for all that it leaves behind."""
    reader, writer = os.pipe()
    for place in ("run", "home"):
        shutil.rmtree(folder / place, ignore_errors=True)
    (folder / FOUND).unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.write(writer, json.dumps(_alone(command, folder, name, device)).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        wall, cpu, code, tail = json.loads(pipe.read())
    os.waitpid(child, 0)
    found = folder / FOUND
    if code or (name != OURS and not found.is_file()):
        raise SystemExit(f"{name} failed:\n{tail}")
    return Cost(wall, cpu, _accuracy(folder) if name == OURS else float(found.read_text()))


def _accuracy(folder: Path) -> float:
    import fedwarm

    return float(fedwarm.load(folder / "run").accuracy)


def _alone(command: list[str], folder: Path, name: str, device: str) -> tuple[float, float, int, str]:
    """(wall seconds, CPU seconds, exit code, end of what it said)."""
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    own = {"FLWR_HOME": str(folder / "home"), "PATH": f"{Path(command[0]).parent}:{os.environ['PATH']}", **PORTS}
    own |= {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    log = folder / f"{name.partition(' (')[0].replace(' ', '-')}.log"
    begun = time.perf_counter()
    with log.open("w") as out:
        code = subprocess.run(command, cwd=folder, env={**os.environ, **own}, stdout=out, stderr=subprocess.STDOUT).returncode
    wall = time.perf_counter() - begun
    _end_children()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, used.ru_utime + used.ru_stime, code, log.read_text()[-3000:]


def _end_children() -> None:
    """End daemons that the command left behind, which are this process's now, and wait for them."""
    import psutil

    left = psutil.Process().children(recursive=True)
    for sign in (signal.SIGTERM, signal.SIGKILL):
        for process in left:
            with suppress(psutil.Error):
                process.send_signal(sign)
        end = time.monotonic() + ENDED_SECONDS
        while time.monotonic() < end:
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    time.sleep(0.05)
            except ChildProcessError:
                return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of MNIST's parquet files, or its name on the Hub")
    parser.add_argument("--keep", type=Path, default=Path("head-to-head"), help="folder of costs, and of the others' environment")
    parser.add_argument("--rivals", default="", help="Python of an environment that has pfl and fluke; else one is made")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    asked = parser.parse_args()
    keep = asked.keep.resolve()
    keep.mkdir(parents=True, exist_ok=True)
    python, costs = asked.rivals or environment(keep), Costs(keep, asked.device, asked.clients, asked.rounds)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        prepare(folder, asked.data, asked.clients, asked.rounds, asked.device)
        found = commands(folder, asked.clients, asked.rounds, asked.device, python)
        for number in range(asked.repeats):
            for name, command in found.items():
                if len(costs.of(name)) <= number:
                    print(f"{name}: {costs.add(name, measured(name, command, folder, asked.device))}", flush=True)
    tell({name: costs.of(name) for name in found})


class Costs:
    """What was measured of the same work before, and now, a line each in a file."""

    def __init__(self, folder: Path, device: str, clients: int, rounds: int) -> None:
        self.path, self.known = folder / f"costs-{device}-{clients}-clients-{rounds}-rounds.jsonl", dict[str, list[Cost]]()
        for line in self.path.read_text().splitlines() if self.path.is_file() else []:
            name, *cost = json.loads(line)
            self.known.setdefault(name, []).append(Cost(*cost))

    def of(self, name: str) -> list[Cost]:
        return self.known.get(name, [])

    def add(self, name: str, cost: Cost) -> Cost:
        """Keep a cost."""
        self.known.setdefault(name, []).append(cost)
        with self.path.open("a") as file:
            file.write(json.dumps([name, cost.wall, cost.cpu, cost.accuracy]) + "\n")
        return cost


def tell(costs: dict[str, list[Cost]]) -> None:
    """The table, in Markdown."""
    middle = {
        name: Cost(*(statistics.median(getattr(c, key) for c in each) for key in ("wall", "cpu", "accuracy")))
        for name, each in costs.items()
    }
    ours = middle[OURS]
    print("| | CPU seconds | of this engine's | wall seconds | accuracy |\n|---|---|---|---|---|")
    for name, cost in sorted(middle.items(), key=lambda item: item[1].cpu):
        print(f"| {name} | {cost.cpu:.1f} | {cost.cpu / ours.cpu:.2f} | {cost.wall:.1f} | {cost.accuracy:.3f} |")
    if max(abs(cost.accuracy - ours.accuracy) for cost in middle.values()) > AGREE:
        raise SystemExit(f"accuracies differ by more than {AGREE}: this was not the same work")


if __name__ == "__main__":
    main()

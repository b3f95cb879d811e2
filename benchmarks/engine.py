"""What the local engine costs: against a bare PyTorch loop, against importing its libraries, against `flwr run`, and in memory.

python benchmarks/engine.py loop      # 100 clients, 5 rounds of FedAvg over the bare loop on the same batches
python benchmarks/engine.py startup   # command to first client step over `python -c "import torch, flwr, diffusers"`
python benchmarks/engine.py flower    # the same app by Flower's simulation and by plain `flwr run` over the local engine
python benchmarks/engine.py memory    # peak memory after 100 rounds over that after 10
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from fedwarm.catalogue import parse
from fedwarm.data.settings import Data
from fedwarm.models import Model
from fedwarm.settings.config import Config
from fedwarm.settings.fields import Value

CLIENTS, ROUNDS, REPEATS = 100, 5, 3


def settings(data: str) -> dict[str, Value]:
    """FedAvg with the small CNN over 100 iid clients, on the CPU, as the bare loop is; `gpu.py` has both on a GPU."""
    return {"method": "fedavg", "data.name": data, "data.partition": "iid", "num-server-rounds": ROUNDS, "device": "cpu"}


def bare(config: Config, clients: int) -> float:
    """Seconds of the plain loop: the same batches in the same order, averaged, and measured on the same test images."""
    from fedwarm.core.seeds import generator
    from fedwarm.data import load_shard
    from fedwarm.models import build_model, to_input

    run = config.run
    shards = [load_shard(config.of(Data), 0, i, clients) for i in range(clients)]
    world, model = (build_model(config.of(Model), len(shards[0].classes), config.of(Data).image_size, 0) for _ in range(2))
    begun = time.perf_counter()
    for number in range(1, run.num_server_rounds + 1):
        total = {n: torch.zeros_like(t, dtype=torch.float64) for n, t in world.state_dict().items()}
        for i, shard in enumerate(shards):
            model.load_state_dict(world.state_dict())
            optimiser = torch.optim.SGD(model.parameters(), lr=run.learning_rate, momentum=run.momentum)
            draws, n = generator(0, "train", number, i), len(shard.train_labels)
            for _ in range(run.local_epochs):
                for rows in torch.randperm(n, generator=draws).split(run.batch_size):
                    loss = torch.nn.functional.cross_entropy(model(to_input(shard.train_images[rows])), shard.train_labels[rows])
                    optimiser.zero_grad()
                    loss.backward()
                    optimiser.step()
            for name, tensor in model.state_dict().items():
                total[name] += tensor.double() * n
        n = sum(len(s.train_labels) for s in shards)
        world.load_state_dict({name: (t / n).float() for name, t in total.items()})
        with torch.no_grad():
            for shard in shards:
                (world(to_input(shard.test_images)).argmax(1) == shard.test_labels).sum().item()
    return time.perf_counter() - begun


def engine(flat: dict[str, Value], clients: int, workers: int) -> float:
    """Seconds of the same run through the local engine, messages, ledger and records included."""
    from fedwarm.engines.local.run import run_local
    from fedwarm.flower.app import FlowerApp

    with tempfile.TemporaryDirectory() as folder:
        given = {**flat, "out": f"{folder}/run", "client-folder": f"{folder}/clients"}
        app = FlowerApp("fedwarm.strategies.server_app:app", "fedwarm.clients.client_app:app", given, None)
        begun = time.perf_counter()
        run_local(app, {}, clients=clients, workers=workers)
        return time.perf_counter() - begun


def loop(data: str, examples: int, repeats: int) -> None:
    """The ratio of engine to bare loop, one thread each, in turn; the median of the pairs."""
    torch.set_num_threads(1)
    flat = settings(data)
    flat |= {"server-threads": 1, "data.max-examples": examples}
    config = parse(flat)
    pairs = [(bare(config, CLIENTS), engine(flat, CLIENTS, 1)) for _ in range(repeats + 1)][1 if repeats > 1 else 0 :]
    ratio = statistics.median(e / b for b, e in pairs)
    plain = statistics.median(b for b, _ in pairs)
    held = f"{CLIENTS} clients, {ROUNDS} rounds on {Path(data).name}, at most {examples or 'all'} images each"
    print(f"{held}: bare loop {plain:.2f} s, local engine / bare loop = {ratio:.2f}")


def timed(command: list[str], **environment: str) -> float:
    begun = time.perf_counter()
    subprocess.run(command, check=True, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begun


def startup() -> None:
    """Seconds from the command to the first client step, by a listener that ends the process there."""
    script = (
        "import os, sys, fedwarm.training.loop as t\n"
        "t._step = lambda *a: os._exit(0)\n"
        "sys.argv = ['fedwarm', 'run', 'fedavg', '--workers', '1', '--out', sys.argv[1]]\n"
        "from fedwarm.cli.app import main\nmain()\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        run = [sys.executable, "-c", script, f"{folder}/run"]
        libraries = [sys.executable, "-c", "import torch, flwr, diffusers"]
        timed(libraries), timed(run)
        pairs = []
        for i in range(REPEATS):
            run[-1] = f"{folder}/run{i}"
            pairs.append((timed(libraries), timed(run)))
    ratio = statistics.median(r / i for i, r in pairs)
    print(f"import {statistics.median(i for i, _ in pairs):.1f} s, command to first client step / import = {ratio:.2f}")


def flower() -> None:
    """The whole command on either engine, the same app: FedAvg on digits, 10 clients, 3 rounds."""
    fedwarm = str(Path(sys.executable).parent / "fedwarm")
    with tempfile.TemporaryDirectory() as folder:
        common = [fedwarm, "run", "fedavg", "--clients", "10", "--rounds", "3", "-c", "data.partition='iid'"]
        local = timed([*common, "--out", f"{folder}/local"])
        ray = timed([*common, "--engine", "ray", "--out", f"{folder}/ray"])
        cold, warm = flwr_run(Path(folder))
    print(
        f"local engine {local:.1f} s; Flower's simulation by --engine ray {ray:.1f} s ({ray / local:.1f} times); `flwr run` "
        f"{cold:.1f} s the first time ({cold / local:.1f}) and {warm:.1f} s with its daemon running ({warm / local:.1f})"
    )


def flwr_run(folder: Path) -> tuple[float, float]:
    """Seconds of `flwr run . --stream` as Flower ships it, on a copy of this checkout: first time, and with its daemon running.

    Flower's home and ports are its own; the daemon is ended afterwards.
    """
    here = Path(__file__).parents[1]
    tree = subprocess.run(["git", "-C", str(here), "archive", "HEAD"], check=True, capture_output=True).stdout
    copy, home = folder / "copy", folder / "home"
    copy.mkdir()
    home.mkdir()
    subprocess.run(["tar", "-x", "-C", str(copy)], input=tree, check=True)
    flwr = Path(sys.executable).parent / "flwr"
    run = [str(flwr), "run", str(copy), "--stream", "--federation-config", "num-supernodes=10"]
    given = "method='fedavg' num-server-rounds=3 data.partition='iid' server-threads=1 out='{}'"
    own = {"FLWR_HOME": str(home), "PATH": f"{flwr.parent}:{os.environ['PATH']}"}
    own |= {"FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": "39191", "FLWR_LOCAL_CONTROL_API_PORT": "39193"}
    try:
        return tuple(timed([*run, "-c", given.format(folder / f"plain{i}")], **own) for i in range(2))  # type: ignore[return-value]
    finally:
        _end_processes_of(home)


def _end_processes_of(home: Path) -> None:
    """End the daemon that was started with this Flower home, and what it started."""
    import psutil

    for process in psutil.process_iter():
        try:
            if process.environ().get("FLWR_HOME") == str(home):
                process.terminate()
        except psutil.Error:
            continue


def memory() -> None:
    """Peak resident memory of the process at rounds 10 and 100 of one run."""
    import resource

    from fedwarm.rounds.server import BaseStrategy

    peaks: dict[int, int] = {}
    original = BaseStrategy.run_stage

    def watched(self, stage, index, exchange) -> None:  # type: ignore[no-untyped-def]
        original(self, stage, index, exchange)
        peaks[stage.round] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    BaseStrategy.run_stage = watched  # type: ignore[method-assign]
    engine({"method": "fedavg", "num-server-rounds": 100, "local-epochs": 1}, 4, 1)
    print(f"peak memory {peaks[10] / 1024:.0f} MiB at round 10; at round 100 it is {peaks[100] / peaks[10]:.3f} times that")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("loop", "startup", "flower", "memory"))
    parser.add_argument("--data", default="digits", help="for `loop`: digits, or a folder of parquet files such as MNIST's")
    parser.add_argument("--examples", type=int, default=0, help="for `loop`: most training images of a client; 0: all")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="for `loop`: pairs that count, after one that warms up")
    arguments = parser.parse_args()
    {
        "loop": lambda: loop(arguments.data, arguments.examples, arguments.repeats),
        "startup": startup,
        "flower": flower,
        "memory": memory,
    }[arguments.what]()


if __name__ == "__main__":
    main()

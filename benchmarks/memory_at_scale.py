"""Peak memory of the local engine with many clients and a large model, over what the libraries take when idle.

python benchmarks/memory_at_scale.py [--clients 200] [--megabytes 50] [--workers 1]

The model is one linear layer; each client trains it for one step. Memory is the proportional share (PSS) of this process and its
workers, sampled ten times a second; the baseline is this process with everything imported, before the run.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time

import psutil
import torch

SAMPLE_SECONDS, MEGABYTES = 0.1, "FEDWARM_MEGABYTES"


def used_bytes() -> int:
    """The memory of this process and those it started; pages that they share count once."""
    here = psutil.Process()
    total = 0
    for process in (here, *here.children(recursive=True)):
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


class Watch(threading.Thread):
    """Samples memory until it is told to stop; `peak` is the highest."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self._over = 0, threading.Event()

    def run(self) -> None:
        while not self._over.wait(SAMPLE_SECONDS):
            self.peak = max(self.peak, used_bytes())

    def stop(self) -> int:
        self._over.set()
        self.join()
        return self.peak


def wide(classes: int, image_size: int) -> torch.nn.Module:
    """A linear model of as many megabytes as the environment says."""
    width = int(os.environ[MEGABYTES]) * 2**20 // 4 // 10
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.AdaptiveAvgPool1d(width), torch.nn.Linear(width, classes))


def measure(clients: int, megabytes: int, workers: int) -> tuple[float, float, float]:
    """Baseline and peak in MiB, and seconds, of one round of FedAvg."""
    from fedwarm.engines.local.run import run_local
    from fedwarm.flower.app import FlowerApp

    os.environ[MEGABYTES] = str(megabytes)
    with tempfile.TemporaryDirectory() as folder:
        flat = {
            "method": "fedavg", "data.partition": "iid", "model.name": "benchmarks.memory_at_scale:wide",
            "num-server-rounds": 1, "local-epochs": 1, "data.max-examples": 8,
            "server-threads": 1, "out": f"{folder}/run", "client-folder": f"{folder}/clients",
        }  # fmt: skip
        app = FlowerApp("fedwarm.strategies.server_app:app", "fedwarm.clients.client_app:app", dict(flat), None)
        warm = {**flat, "model.name": "cnn", "out": f"{folder}/first", "num-server-rounds": 1}
        run_local(FlowerApp(app.server, app.client, warm, None), {}, clients=2, workers=1)
        baseline, watch, begun = used_bytes(), Watch(), time.monotonic()
        watch.start()
        run_local(app, {}, clients=clients, workers=workers)
        return baseline / 2**20, watch.stop() / 2**20, time.monotonic() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--megabytes", type=int, default=50)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(1)
    baseline, peak, seconds = measure(given.clients, given.megabytes, given.workers)
    print(
        f"{given.clients} clients, a model of {given.megabytes} MB, {given.workers} worker(s): baseline {baseline:.0f} MiB, "
        f"peak {peak:.0f} MiB, {peak - baseline:.0f} MiB above it, {seconds:.0f} s"
    )


if __name__ == "__main__":
    main()

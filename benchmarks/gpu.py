"""What a GPU gives, as ratios within one run: one command, steps by value, each in a process of its own with a time limit.

python benchmarks/gpu.py --data path/to/mnist           # all steps; a line each, and $OUT/gpu.json
python benchmarks/gpu.py loop stack --data path/to/mnist

loop    FedAvg, 100 clients of 96 images, one after another in this process, over the bare loop on the same card (target 1.15)
stack   the same with clients that train together, 10 to 100 at a time, and the peak of memory (target .10 at the default)
apart   how far models are from one after another after five rounds (target 1e-5), and whether two runs have the same bits
lora    steps of an adapter at batch 1 with AdamW in one kernel over AdamW as a loop (one half of the target of 1.5)

`--device cpu --clients 4` tries the script where there is no GPU; its figures mean nothing then.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from engine import ROUNDS, settings

from fedwarm.catalogue import parse
from fedwarm.core.seeds import generator
from fedwarm.data import load_shard
from fedwarm.data.settings import Data
from fedwarm.models import Model, build_model, to_input
from fedwarm.settings.fields import Value

IMAGES, PAIRS = 96, 3
SECONDS = {"loop": 120, "stack": 120, "apart": 90, "lora": 90}


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def bare(flat: dict[str, Value], clients: int, device: torch.device) -> float:
    """Seconds of FedAvg as a plain loop on the device: data there from the start, sums there, test images measured each round."""
    config = parse(flat)
    run = config.run
    shards = [load_shard(config.of(Data), 0, i, clients) for i in range(clients)]
    held = [tuple(t.to(device) for t in (s.train_images, s.train_labels, s.test_images, s.test_labels)) for s in shards]
    size = config.of(Data).image_size
    world, model = (build_model(config.of(Model), len(shards[0].classes), size, 0).to(device) for _ in range(2))
    synchronise(device)
    begun = time.perf_counter()
    for number in range(1, run.num_server_rounds + 1):
        total = {n: torch.zeros_like(t) for n, t in world.state_dict().items()}
        for i, (images, labels, _, _) in enumerate(held):
            model.load_state_dict(world.state_dict())
            optimiser = torch.optim.SGD(model.parameters(), lr=run.learning_rate, momentum=run.momentum)
            draws = generator(0, "train", number, i)
            for _ in range(run.local_epochs):
                for rows in torch.randperm(len(labels), generator=draws).to(device).split(run.batch_size):
                    loss = torch.nn.functional.cross_entropy(model(to_input(images[rows])), labels[rows])
                    optimiser.zero_grad()
                    loss.backward()
                    optimiser.step()
            for name, tensor in model.state_dict().items():
                total[name] += tensor * len(labels)
        count = sum(len(h[1]) for h in held)
        world.load_state_dict({name: t / count for name, t in total.items()})
        with torch.no_grad():
            sum(int((world(to_input(x)).argmax(1) == y).sum()) for _, _, x, y in held)
    synchronise(device)
    return time.perf_counter() - begun


def whole(flat: dict[str, Value], clients: int) -> tuple[float, dict[str, Any]]:
    """Seconds of the run through the local engine in this process, messages, ledger and evaluation included; and its model."""
    from safetensors.numpy import load_file

    from fedwarm.engines.local.run import run_local
    from fedwarm.flower.app import FlowerApp
    from fedwarm.flower.writing import CLIENT, SERVER

    with tempfile.TemporaryDirectory() as folder:
        given = {**flat, "out": f"{folder}/run", "client-folder": f"{folder}/clients"}
        begun = time.perf_counter()
        run_local(FlowerApp(SERVER, CLIENT, given, None), {}, clients=clients, workers=1)
        return time.perf_counter() - begun, load_file(f"{folder}/run/model.safetensors")


def run_of(asked: argparse.Namespace, cohort: int) -> dict[str, Value]:
    return {**settings(asked.data), "data.max-examples": IMAGES, "device": asked.device, "cohort": cohort, "server-threads": 1}


def sizes(clients: int) -> list[int]:
    return [size for size in (10, 25, 50, 100) if size <= clients] or [clients]


def loop(asked: argparse.Namespace) -> dict[str, Any]:
    """One after another."""
    flat = run_of(asked, 0)
    pairs = [
        (bare(flat, asked.clients, torch.device(asked.device)), whole(flat, asked.clients)[0]) for _ in range(asked.pairs + 1)
    ]
    counted = pairs[1:] or pairs
    return {
        "bare seconds": statistics.median(b for b, _ in counted),
        "one after another": statistics.median(e / b for b, e in counted),
    }


def stack(asked: argparse.Namespace) -> dict[str, Any]:
    """Together, each over a bare loop beside it; the first of each size warms up."""
    found: dict[str, Any] = {}
    plain = run_of(asked, 0)
    bare(plain, asked.clients, torch.device(asked.device))
    for size in sizes(asked.clients):
        flat = run_of(asked, size)
        whole(flat, asked.clients)
        if asked.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds = whole(flat, asked.clients)[0]
        found[f"{size} together"] = seconds / bare(plain, asked.clients, torch.device(asked.device))
        if asked.device == "cuda":
            found[f"{size} together, MB"] = torch.cuda.max_memory_allocated() / 1e6
    return found


def apart(asked: argparse.Namespace) -> dict[str, Any]:
    """Relative distance of whole models, and the same bits twice."""
    alone = whole(run_of(asked, 0), asked.clients)[1]
    found: dict[str, Any] = {"rounds": ROUNDS}
    for size in sizes(asked.clients)[-2:]:
        one, other = (whole(run_of(asked, size), asked.clients)[1] for _ in range(2))
        squares = [(np.square(one[n].astype(float) - a).sum(), np.square(a.astype(float)).sum()) for n, a in alone.items()]
        found[f"{size} from alone"] = float(np.sqrt(sum(d for d, _ in squares) / sum(a for _, a in squares)))
        found[f"{size} twice"] = all(np.array_equal(one[n], other[n]) for n in one)
    return found


def lora(asked: argparse.Namespace) -> dict[str, Any]:
    """Seconds of AdamW's step alone, on 256 matrices of rank 4 with 798,720 numbers, about as many as Stable Diffusion's."""
    device = torch.device(asked.device)
    widths = [320] * 80 + [640] * 80 + [1280] * 96
    found = {}
    for fused in (False, True):
        parameters = [torch.nn.Parameter(torch.zeros(4, width, device=device)) for width in widths]
        optimiser = torch.optim.AdamW(parameters, lr=1e-4, fused=fused)
        for p in parameters:
            p.grad = torch.ones_like(p)
        for count in (3, 200):
            synchronise(device)
            begun = time.perf_counter()
            for _ in range(count):
                optimiser.step()
            synchronise(device)
        found["fused" if fused else "foreach"] = (time.perf_counter() - begun) / 200
    return {**found, "ratio": found["foreach"] / found["fused"]}


STEPS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {"loop": loop, "stack": stack, "apart": apart, "lora": lora}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", help=f"{', '.join(STEPS)}; none: all")
    parser.add_argument("--data", default="digits", help="digits, or a folder of parquet files such as MNIST's")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--here", action="store_true", help="run the one step in this process")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.here:
        print("RESULT", json.dumps(STEPS[asked.steps[0]](asked)))
        return
    card = torch.cuda.get_device_name() if asked.device == "cuda" else "cpu"
    found: dict[str, Any] = {"card": card, "torch": torch.__version__}
    print(found)
    for step in asked.steps or STEPS:
        given = ["--data", asked.data, "--device", asked.device, "--clients", str(asked.clients), "--pairs", str(asked.pairs)]
        try:
            done = subprocess.run(
                [sys.executable, __file__, step, "--here", *given], capture_output=True, text=True, timeout=SECONDS[step]
            )
            line = next((text for text in done.stdout.splitlines() if text.startswith("RESULT ")), "")
            found[step] = json.loads(line.removeprefix("RESULT ")) if line else {"failed": done.stderr[-500:]}
        except subprocess.TimeoutExpired:
            found[step] = {"failed": f"not done in {SECONDS[step]} s"}
        print(step, found[step], flush=True)
    (Path(os.environ.get("OUT", ".")) / "gpu.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

"""What a GPU gives, as ratios within one run: one command, steps by value, each in a process of its own with a time limit.

python benchmarks/gpu.py --data path/to/mnist           # all steps; a line each, and $OUT/gpu.json
python benchmarks/gpu.py loop stack --data path/to/mnist

loop       FedAvg, 100 clients of 96 images, one after another in this process, over the bare loop on the same card (target 1.15)
stack      the same with clients that train together, 10 to 100 at a time, and the peak of memory (target .10 at the default)
lora       whole steps of an adapter, batch 1 and 4: with plain AdamW, and as they were before (peft's products and copies), over
           what they are now (target: as it was at least 1.5 times now)
drawing    drawing over diffusers' own pipeline at equal sentences, noise, sampler, steps, guidance and batch (target 1.05)
memory     the peak of hollowed tuning at the default depth over inference's, Stable Diffusion 1.5's layout in fp16 (target 1.0)
coder      DP-REC: encoding over drawing K d normals, decoding over drawing d (target 2 of the first for both)
apart      how far models are from one after another after five rounds (target 1e-5), and whether two runs have the same bits
main       `fedwarm run warmfed`: seconds by stage (88 s in all on an H100 before)
suite      the tests that only a GPU can show, as `make test-gpu` runs them: their closing line
optimiser  AdamW's step alone, of as many matrices as Stable Diffusion's: in one kernel, by foreach, and as a loop

`--device cpu --toy` tries the script where there is no GPU, at sizes that mean nothing; `--device cpu --layouts glyph drawing`
draws with the embedded foundation on one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from engine import ROUNDS, settings
from gpu_diffusion import LAYOUTS, drawing, lora, synchronise

from fedwarm.catalogue import parse
from fedwarm.core.seeds import generator
from fedwarm.data import load_shard
from fedwarm.data.settings import Data
from fedwarm.models import Model, build_model, to_input
from fedwarm.settings.fields import Value

IMAGES, PAIRS = 96, 3
LIBRARIES = ("diffusers", "transformers", "peft", "flwr")
TOY_RUN = {
    "data.max-examples": 16, "num-server-rounds": 1, "local-epochs": 1, "server-threads": 1, "diffusion.lora-steps": 2,
    "diffusion.lora-batch-size": 2, "diffusion.sample-steps": 1, "warmfed.synthetic-ratio": 0.1, "warmfed.min-per-class": 1,
    "warmfed.epochs-warm": 1, "warmfed.teacher-epochs": 1, "warmfed.distill-epochs": 1,
}  # fmt: skip


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


def memory(asked: argparse.Namespace) -> dict[str, Any]:
    """Peaks of torch's allocator in MB, each case a process of its own (`hollowed_memory.py`), and their ratio."""
    import hollowed_memory

    card = ["--layout", "sd15", "--device", "cuda", "--precision", "fp16"]
    given, part = (["--batch", "1", "--steps", "2"], "tensors") if asked.device == "cpu" else (card, "gpu")
    rows = {case: hollowed_memory.child(given, part, case) for case in ("inference", "hollowed--1")}
    failed = {case: row["failed"] for case, row in rows.items() if "failed" in row}
    if failed:
        return {"failed": failed}
    return {"rows": rows, "hollowed / inference": rows["hollowed--1"]["tensors_mb"] / rows["inference"]["tensors_mb"]}


def coder(asked: argparse.Namespace) -> dict[str, Any]:
    """Ratios within a round (`dp_rec_coding.py`)."""
    from dp_rec_coding import DECODE, DRAW, DRAW_D, ENCODE, Case, measure

    case = Case(5000, 5, 512, 1, asked.device) if asked.toy else Case(1_000_000, 7, 4096, 1, asked.device)
    rows = measure(case, asked.pairs)
    found = {"size": case.size, "bits": case.bits, "block": case.block}
    found |= {f"{name}, seconds": rows[name]["seconds"] for name in (DRAW, ENCODE, DRAW_D, DECODE)}
    both = {"encode / draw K d": rows[ENCODE]["ratio"], "decode / draw d": rows[DECODE]["ratio"]}
    return {**found, **both, "decode / draw K d": rows[DECODE]["seconds"] / rows[DRAW]["seconds"]}


def main_job(asked: argparse.Namespace) -> dict[str, Any]:
    """Seconds of `fedwarm run warmfed` by stage; start is what the command took besides."""
    command = [str(Path(sys.executable).parent / "fedwarm"), "run", "warmfed", "--fresh"]
    given = {"device": asked.device, **(TOY_RUN if asked.toy else {})}
    command += [word for key, value in given.items() for word in ("-c", f"{key}={json.dumps(value)}")]
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        done = subprocess.run([*command, "--out", f"{folder}/run"], capture_output=True, text=True)
        took = time.perf_counter() - begun
        if done.returncode:
            return {"failed": (done.stderr or done.stdout)[-500:]}
        results = json.loads((Path(folder) / "run" / "results.json").read_text())
    stages: dict[str, float] = {}
    for stage in results["stages"]:
        stages[stage["name"]] = round(stages.get(stage["name"], 0.0) + stage["seconds"], 3)
    return {"seconds": took, "start": took - results["totals"]["seconds"], "stages": stages, "device": results["device"]}


def suite(asked: argparse.Namespace) -> dict[str, Any]:
    """The command of `make test-gpu`; where there is no GPU, its tests are skipped, and tried is one file of them."""
    command = [sys.executable, "-m", "pytest", "-p", "no:randomly", "-p", "no:cacheprovider", "-q", "-m", "gpu"]
    command += ["tests/test_gpu.py"] if asked.toy else []
    named = {"FEDWARM_TEST_GPU": "1"} if asked.device == "cuda" else {}
    here = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=here, env={**os.environ, **named}, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return {"exit code": done.returncode, "closing line": lines[-1] if lines else done.stderr[-500:], "failed tests": failed}


def optimiser(asked: argparse.Namespace) -> dict[str, Any]:
    """Seconds of AdamW's step alone, on 256 matrices of rank 4 with 798,720 numbers, about as many as Stable Diffusion's."""
    device = torch.device(asked.device)
    widths = [320] * 80 + [640] * 80 + [1280] * 96
    found = {}
    for name in ("fused", "foreach", "loop"):
        parameters = [torch.nn.Parameter(torch.zeros(4, width, device=device)) for width in widths]
        adamw = torch.optim.AdamW(parameters, lr=1e-4, fused=name == "fused", foreach=name == "foreach")
        for p in parameters:
            p.grad = torch.ones_like(p)
        for count in (3, 200):
            synchronise(device)
            begun = time.perf_counter()
            for _ in range(count):
                adamw.step()
            synchronise(device)
        found[name] = (time.perf_counter() - begun) / 200
    return {**found, "foreach / fused": found["foreach"] / found["fused"], "loop / fused": found["loop"] / found["fused"]}


def versions(device: str) -> dict[str, Any]:
    """The card, and what computes on it."""
    card = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    found = {"card": card, "cards": torch.cuda.device_count(), "python": platform.python_version()}
    return {**found, "torch": torch.__version__, "cuda": torch.version.cuda, **{name: version(name) for name in LIBRARIES}}


Step = Callable[[argparse.Namespace], dict[str, Any]]
STEPS: dict[str, tuple[Step, int]] = {
    "loop": (loop, 90), "stack": (stack, 120), "lora": (lora, 90), "drawing": (drawing, 90), "memory": (memory, 75),
    "coder": (coder, 45), "apart": (apart, 75), "main": (main_job, 120), "suite": (suite, 150), "optimiser": (optimiser, 30),
}  # fmt: skip
"""Each with the seconds that it may take: all together less than a quarter of an hour."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", help=f"{', '.join(STEPS)}; none: all")
    parser.add_argument("--data", default="digits", help="digits, or a folder of parquet files such as MNIST's")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--pairs", type=int, default=PAIRS, help="turns that count, after one that warms up")
    parser.add_argument(
        "--layouts", nargs="*", choices=LAYOUTS, default=[], help="foundations; none: sd15 and glyph (--toy: tiny)"
    )
    parser.add_argument("--precision", choices=("fp16", "bf16", "fp32"), help="of sd15; else fp16, on a CPU fp32")
    parser.add_argument("--toy", action="store_true", help="sizes that try the script, and whose figures mean nothing")
    parser.add_argument("--here", action="store_true", help="run the one step in this process")
    asked = parser.parse_args()
    asked.precision = asked.precision or ("fp16" if asked.device == "cuda" else "fp32")
    asked.layouts = asked.layouts or (["tiny"] if asked.toy else ["sd15", "glyph"])
    if unknown := [step for step in asked.steps if step not in STEPS]:
        parser.error(f"there is no step {unknown[0]!r}; choose some of {', '.join(STEPS)}")
    if asked.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch sees no GPU here; --device cpu --toy tries the script without one")
    torch.set_num_threads(1)
    if asked.here:
        print("RESULT", json.dumps(STEPS[asked.steps[0]][0](asked)))
        return
    found: dict[str, Any] = versions(asked.device)
    print(found)
    given = ["--data", asked.data, "--device", asked.device, "--clients", str(asked.clients), "--pairs", str(asked.pairs)]
    given += ["--precision", asked.precision, *(["--toy"] if asked.toy else []), "--layouts", *asked.layouts]
    for step in asked.steps or STEPS:
        found[step] = timed(step, given)
        print(step, found[step], flush=True)
        (Path(os.environ.get("OUT", ".")) / "gpu.json").write_text(json.dumps(found, indent=1) + "\n")


def timed(step: str, given: list[str]) -> dict[str, Any]:
    """A step's figures, from a process of its own, which is ended with all that it started when its time is over."""
    seconds = STEPS[step][1]
    command = [sys.executable, __file__, step, "--here", *given]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        said, errors = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        return {"failed": f"not done in {seconds} s"}
    line = next((text for text in said.splitlines() if text.startswith("RESULT ")), "")
    return json.loads(line.removeprefix("RESULT ")) if line else {"failed": errors[-500:]}


if __name__ == "__main__":
    main()

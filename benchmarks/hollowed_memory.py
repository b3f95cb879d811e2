"""Peak memory of inference, full fine-tuning, LoRA and hollowed LoRA, each in a process of its own.

    python benchmarks/hollowed_memory.py [--out FILE]                              # the embedded net
    python benchmarks/hollowed_memory.py --layout sd15 --device cuda --precision fp16 [--checkpoints] [--whole]
    python benchmarks/hollowed_memory.py --layout sd15 --image-size 256 --cases inference lora-1 hollowed-3 --limit-mb 6000

Weights are random, of the layout's full size. Inference is guided denoising: two rows an image. Without --whole, autoencoder and
text encoder are tiny, so that all rows are about the U-Net; with it they have their full size, inference ends with the decoded
image, and what tuning does with them counts (plain tuning keeps them, hollowed tuning puts them away).

- counted: what `hollow_memory.footprint` says before the work: weights, gradients, optimiser, kept activations.
- tensors: the peak of torch's allocator, over all (loading, asking the core, training) and over steps 2 to the last alone.
- process (CPU): the highest resident set; beside it what that is over the set after a small warm-up run, which holds the imports.
In brackets: over inference's peak. On the CPU tensors and process are measured in separate runs, as tracing takes memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hollowed_cases import SD15, warm_up, work

MB = 1e6
BATCH = {"glyph": 16, "sd15": 1}
SIDE = {"glyph": 32, "sd15": 512}
TOKENS = {"glyph": 20, "sd15": 77}
LINUX = sys.platform == "linux"

Figures = dict[str, float]


def resident(name: str = "VmHWM") -> float:
    """MB of this process: VmHWM is the highest resident set, VmRSS that of now."""
    if not LINUX:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MB
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / MB for line in lines if line.startswith(name))


def process_peaks(given: argparse.Namespace) -> Figures:
    """By the operating system; where the peak cannot be reset, training is over all that was before, too."""
    warm_up()
    highest: list[float] = []
    imports = resident("VmRSS")

    def mark() -> None:
        highest.append(resident())
        if LINUX:
            Path("/proc/self/clear_refs").write_text("5")

    begun = time.perf_counter()
    mark()
    work(given, mark)
    seconds = time.perf_counter() - begun
    mark()
    return {"imports_mb": imports, "process_mb": max(highest[1:]), "process_training_mb": highest[2], "seconds": seconds}


def gpu_peaks(given: argparse.Namespace) -> Figures:
    """By CUDA's allocator."""
    import torch

    highest: list[float] = []

    def mark() -> None:
        highest.append(torch.cuda.max_memory_allocated() / MB)
        torch.cuda.reset_peak_memory_stats()

    begun = time.perf_counter()
    work(given, mark)
    seconds = time.perf_counter() - begun
    mark()
    return {"tensors_mb": max(highest), "tensors_training_mb": highest[1], "seconds": seconds}


@contextmanager
def traced() -> Iterator[list[tuple[int, int]]]:
    """(nanosecond, bytes taken or given back) of everything that torch allocates on the CPU in the block, afterwards."""
    from torch.autograd.profiler import profile

    events: list[tuple[int, int]] = []
    with profile(profile_memory=True) as trace:
        yield events
    assert trace.kineto_results is not None
    events += sorted((e.start_ns(), e.nbytes()) for e in trace.kineto_results.events() if e.name() == "[memory]")


def tensor_peaks(given: argparse.Namespace) -> Figures:
    """By the events of torch's CPU allocator."""
    warm_up()
    marks: list[int] = []
    with traced() as events:
        work(given, lambda: marks.append(time.time_ns()))
    now = peak = training = 0
    for nanosecond, taken in events:
        now += taken
        peak = max(peak, now)
        training = max(training, now) if marks[0] <= nanosecond <= marks[1] else training
    return {"tensors_mb": peak / MB, "tensors_training_mb": training / MB}


def counted(given: argparse.Namespace) -> Figures:
    """Every case's count in MB; of inference the weights."""
    import torch
    from diffusers import UNet2DConditionModel

    from fedwarm.diffusion.foundation import PRECISIONS, asset_folder
    from fedwarm.diffusion.settings import Diffusion
    from fedwarm.diffusion.tuners.hollowed.cuts import cuts
    from fedwarm.diffusion.tuners.hollowed.memory import footprint

    dtype, embedded = PRECISIONS[given.precision], asset_folder("glyph")
    with torch.device("meta"):
        if given.layout == "glyph" and embedded is not None:
            unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(embedded / "unet"))
        else:
            unet = UNet2DConditionModel(sample_size=given.image_size // 8, **SD15)

    def count(cut: Any, rank: int = given.rank, *, full: bool = False) -> float:
        settings = Diffusion(rank=rank, lora_batch_size=given.batch)
        return footprint(unet, settings, cut, dtype, full=full, tokens=TOKENS[given.layout]).total / MB

    found = {"inference": sum(p.numel() for p in unet.parameters()) * dtype.itemsize / MB, "full": count(None, full=True)}
    found |= {f"lora-{rank}": count(None, rank) for rank in (1, given.rank, 128)}
    return found | {f"hollowed-{cut.depth}": count(cut) for cut in cuts(unet, Diffusion().targets)}


def child(argv: list[str], part: str, case: str = "") -> Any:
    """This file again, in a fresh process, for one part of one case."""
    command = [sys.executable, __file__, *argv, "--part", part, *(["--case", case] if case else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


PARTS: dict[str, Callable[[argparse.Namespace], Figures]] = {
    "count": counted, "process": process_peaks, "tensors": tensor_peaks, "gpu": gpu_peaks,
}  # fmt: skip


def cell(row: dict[str, Any], base: dict[str, Any], figure: str, imports: str = "") -> str:
    """A figure, and in brackets its ratio to inference's peak; `imports` names what is taken off both."""
    if figure not in row:
        return ""
    value, whole = row[figure] - row.get(imports, 0.0), figure.replace("_training", "")
    return f"{value:,.0f}" + (f" ({value / (base[whole] - base.get(imports, 0.0)):.2f})" if whole in base else "")


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The figures as markdown."""
    heads = ["case", "counted", "tensors", "while training", "process", "over the imports", "while training", "seconds"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    base = rows.get("inference", {})
    for name, row in rows.items():
        cells = [name, f"{row['counted_mb']:,.0f}"]
        cells += [cell(row, base, figure) for figure in ("tensors_mb", "tensors_training_mb")]
        cells += [f"{row['process_mb']:,.0f}" if "process_mb" in row else ""]
        cells += [cell(row, base, figure, "imports_mb") for figure in ("process_mb", "process_training_mb")]
        cells += [f"{row['seconds']:.1f}" if "seconds" in row else row.get("skipped", "") or f"failed: {row.get('failed')}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layout", choices=("glyph", "sd15"), default="glyph", help="embedded, or Stable Diffusion 1.5's")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "fp16", "bf16"), default="fp32", help="of the frozen weights")
    parser.add_argument("--image-size", type=int, default=0, help="pixels a side; 0: the layout's (the embedded net has but one)")
    parser.add_argument("--batch", type=int, default=0, help="images a step; 0: 16 for the embedded net, else 1")
    parser.add_argument("--steps", type=int, default=4, help="steps of each case, at least 2")
    parser.add_argument("--rank", type=int, default=4, help="rank of hollowed LoRA")
    parser.add_argument("--checkpoints", action="store_true", help="gradient checkpointing")
    parser.add_argument("--whole", action="store_true", help="sd15: autoencoder and text encoder in full size, too")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--cases", nargs="*", default=[], help="e.g. inference full lora-1 hollowed-3; none: all")
    parser.add_argument("--limit-mb", type=float, default=0.0, help="leave out cases that count more; 0: none")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--part", choices=("", *PARTS), default="", help=argparse.SUPPRESS)
    parser.add_argument("--case", default="", help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    given.batch = given.batch or BATCH[given.layout]
    given.image_size = SIDE["glyph"] if given.layout == "glyph" else given.image_size or SIDE["sd15"]
    return given


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    given = arguments(argv)
    if given.part:
        import torch

        torch.set_num_threads(given.threads)
        print(json.dumps(PARTS[given.part](given)))
        return 0
    counts, rows = child(argv, "count"), {}
    for name in given.cases or list(counts):
        row: dict[str, Any] = {"counted_mb": counts.get(name, float("nan"))}
        if given.limit_mb and row["counted_mb"] > given.limit_mb:
            row["skipped"] = "**not run**: beyond the limit"
        else:
            for part in ("gpu",) if given.device == "cuda" else ("tensors", "process"):
                row |= child(argv, part, name)
        rows[name] = row
    print(f"{given.layout}, {given.image_size} pixels, batch {given.batch}, {given.precision}, {given.device}; MB\n")
    print(table(rows))
    if given.out:
        told = {key: value for key, value in vars(given).items() if key not in ("out", "case", "part")}
        given.out.write_text(json.dumps({"settings": told, "rows": rows}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How fast an update is coded: over the time that drawing as many normals takes, in one run, on the same cores.

    python benchmarks/dp_rec_coding.py [--threads 1] [--size 1000000] [--bits 7] [--block 4096] [--repeats 3] [--out FILE]
    python benchmarks/dp_rec_coding.py --device cuda

Encoding weighs K = 2^b candidates of d numbers, so its limit is K d normals; they are drawn with `torch.randn` into one buffer,
CHUNK at a time. torch draws on one core; with more threads as many generators draw at once, and that is the limit. All parts
take turns (the short ones TURNS times a round), the first round does not count, and a ratio is the median over neighbours.
Working sets are measured apart, as timing and tracing disturb each other. On the CPU the process keeps to as many cores as it has
threads.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from fedwarm.coding import rec
from fedwarm.coding.blocks import fixed_size
from fedwarm.coding.codec import RandomCodec
from fedwarm.coding.rotation import padded
from fedwarm.coding.streams import PER_WORD, Stream, Words

CHUNK = {"cpu": 1 << 16, "cuda": 1 << 24}
ENERGY = 100.0
STREAM = Stream(1, 2, 3)
MIB = 1 << 20
DRAW, DRAW_ONE, WORDS, ENCODE, CLIENT = "draw K d normals", "the same, one generator", "words alone", "encode", "client, whole"
DRAW_D, DECODE, SERVER = "draw d normals", "decode", "server, whole"
NOTES = {
    DRAW: "torch.randn, K d numbers: the limit",
    DRAW_ONE: "the same by one generator, on one core",
    WORDS: "the stream's Philox words of K d normals and nothing else",
    ENCODE: "candidates drawn, weighed and chosen",
    CLIENT: "clip, rotate (pads to a power of two), encode, pack",
    DRAW_D: "torch.randn(d)",
    DECODE: "code words to the chosen candidates",
    SERVER: "decode, then what is done once a round: debias, rotate back",
}
OVER = {ENCODE: DRAW, CLIENT: DRAW, WORDS: DRAW, DRAW_ONE: DRAW, DECODE: DRAW_D, SERVER: DRAW_D}
WANTED = {ENCODE: 3.0, DECODE: 2.0}
SHORT, TURNS = (DRAW_D, DECODE, SERVER), 15

Part = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """What is measured: an update of `size` numbers, `bits` an index, `block` numbers a block."""

    size: int
    bits: int
    block: int
    threads: int
    device: str

    @property
    def where(self) -> torch.device:
        return torch.device(self.device)

    @property
    def normals(self) -> int:
        """K d, what encoding draws."""
        return self.size << self.bits


def drawer(count: int, case: Case, generators: int) -> Part:
    """Draws `count` normals, at most CHUNK at a time in each of as many threads as `generators`."""
    share = -(-count // generators)
    buffers = [torch.empty(min(CHUNK[case.where.type], share), device=case.where) for _ in range(generators)]
    sources = [torch.Generator(case.where).manual_seed(i) for i in range(generators)]

    def draw(i: int) -> None:
        buffer = buffers[i]
        whole, rest = divmod(share, buffer.numel())
        for _ in range(whole):
            torch.randn(buffer.numel(), generator=sources[i], out=buffer)
        torch.randn(rest, generator=sources[i], device=case.where)

    if generators == 1:
        return lambda: draw(0)
    pool = ThreadPoolExecutor(generators)
    return lambda: list(pool.map(draw, range(generators)))


def codec(case: Case) -> RandomCodec:
    """Rotated, in blocks of `block`; the blocks hold a KL that suits 7 bits."""
    return RandomCodec(case.size, ENERGY**-0.5, 1.0, fixed_size(padded(case.size, "hadamard"), case.block), bits=case.bits)


def parts(case: Case) -> dict[str, Part]:
    """What is timed, by name."""
    update = np.random.default_rng(0).normal(size=case.size)
    update /= np.linalg.norm(update)
    v, starts = update * ENERGY**0.5, fixed_size(case.size, case.block).starts
    indices = rec.encode(v, starts, case.bits, STREAM, device=case.where)
    whole = codec(case)
    code = whole.encode(update, STREAM, device=case.where)

    def decode() -> object:
        return rec.decode(indices, starts, STREAM, case.where)

    found: dict[str, Part] = {
        DRAW: drawer(case.normals, case, case.threads if case.device == "cpu" else 1),
        ENCODE: lambda: rec.encode(v, starts, case.bits, STREAM, device=case.where),
        CLIENT: lambda: whole.encode(update, STREAM, device=case.where),
        DRAW_D: lambda: torch.randn(case.size, device=case.where),
        DECODE: decode,
    }
    if case.device == "cpu":
        found[SERVER] = lambda: whole.decode(code, STREAM)
        found[WORDS] = lambda: all_words(case)
        if case.threads > 1:
            found[DRAW_ONE] = drawer(case.normals, case, 1)
    return found


def all_words(case: Case) -> None:
    words = Words()
    for k in range(1 << case.bits):
        words.at((0, 0), k)
        for first in range(0, case.size, CHUNK["cpu"]):
            words.take(-(-min(CHUNK["cpu"], case.size - first) // PER_WORD))


def seconds(part: Part, case: Case) -> float:
    """Wall time of one call, to the end of what it started on a device."""
    settle: Part = torch.cuda.synchronize if case.where.type == "cuda" else lambda: None
    settle()
    begun = time.perf_counter()
    part()
    settle()
    return time.perf_counter() - begun


def working_mib(part: Part, case: Case) -> float:
    """The most memory beyond what was there before: of numpy and Python, or of the GPU."""
    if case.where.type == "cuda":
        torch.cuda.synchronize()
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        part()
        torch.cuda.synchronize()
        return float(torch.cuda.max_memory_allocated() - held) / MIB
    tracemalloc.start()
    part()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / MIB


def one_round(timed: dict[str, Part], case: Case) -> dict[str, list[float]]:
    """Seconds of every call of one round, by part."""
    found = {name: [seconds(part, case)] for name, part in timed.items() if name not in SHORT}
    short = [name for name in SHORT if name in timed]
    turns = [{name: seconds(timed[name], case) for name in short} for _ in range(TURNS)]
    return found | {name: [turn[name] for turn in turns] for name in short}


def measure(case: Case, repeats: int) -> dict[str, Any]:
    """Seconds, ratios within a round, and working sets, by part."""
    timed = parts(case)
    rounds = [one_round(timed, case) for _ in range(repeats + 1)][1:]
    calls = {name: [s for one in rounds for s in one[name]] for name in NOTES if name in timed}
    rows: dict[str, Any] = {}
    for name, took in calls.items():
        rows[name] = {"seconds": statistics.median(took), "all_seconds": took}
        if name in OVER:
            rows[name]["ratio"] = statistics.median(a / b for a, b in zip(took, calls[OVER[name]], strict=True))
        if name in (ENCODE, CLIENT, DECODE, SERVER):
            rows[name]["working_mib"] = working_mib(timed[name], case)
    return rows


def table(case: Case, rows: dict[str, Any]) -> str:
    """The figures as markdown."""
    lines = ["| part | what | seconds | over the draw | wanted | working set, MiB |", "|---|---|---|---|---|---|"]
    for name, row in rows.items():
        ratio, most = row.get("ratio"), WANTED.get(name)
        wanted = f"at most {most:g}" + ("" if ratio <= most else ": **not reached**") if most else ""
        cells = [name, NOTES[name], f"{row['seconds']:.4f}", f"{ratio:.2f}" if ratio else "", wanted]
        lines.append("| " + " | ".join([*cells, f"{row['working_mib']:.1f}" if "working_mib" in row else ""]) + " |")
    rate, limit = (case.normals / rows[n]["seconds"] / 1e6 for n in (ENCODE, DRAW))
    said = f"encode: {rate:,.0f} million normals a second, weighed; {rate / limit:.2f} of the limit of {limit:,.0f} million"
    if WORDS in rows:
        said += f"; the stream's words alone take {rows[WORDS]['seconds'] / rows[ENCODE]['seconds']:.2f} of its time"
    lines += ["", said]
    if case.device == "cpu":
        lines.append(f"encode's bound on its working set, whatever d and K: {rec.WORKING_BYTES / MIB:.1f} MiB")
    return "\n".join(lines)


def keep_to(threads: int) -> None:
    """As many threads, and as many cores.

    Raises:
        SystemExit: the machine has fewer cores.
    """
    torch.set_num_threads(threads)
    threadpool_limits(threads)
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < threads:
            sys.exit(f"--threads {threads}: only {len(cores)} cores may be used here")
        os.sched_setaffinity(0, cores[:threads])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1_000_000, help="d, numbers of the update")
    parser.add_argument("--bits", type=int, default=7, help="b, bits a block")
    parser.add_argument("--block", type=int, default=4096, help="numbers a block")
    parser.add_argument("--threads", type=int, default=1, help="threads and cores of everything that is timed on the CPU")
    parser.add_argument("--repeats", type=int, default=3, help="rounds that count, after one that warms up")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where candidates are weighed")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    given = parser.parse_args(argv)
    if given.device == "cuda" and not torch.cuda.is_available():
        print("skipped: --device cuda, but torch sees no GPU here")
        return 0
    keep_to(given.threads)
    case = Case(given.size, given.bits, given.block, given.threads, given.device)
    rows = measure(case, given.repeats)
    name = torch.cuda.get_device_name() if given.device == "cuda" else f"{given.threads} thread(s)"
    print(f"d = {case.size:,}, b = {case.bits}, blocks of {case.block}, {name}, median of {given.repeats}\n\n{table(case, rows)}")
    if given.out:
        given.out.write_text(json.dumps({"case": asdict(case), "torch": torch.__version__, "parts": rows}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What WarmFed's warm start costs a processor, part by part: a step of an adapter, and an image, in each way that there is.

`python benchmarks/warm_start_seconds.py`: each way in turn, `--repeats` times in one process, on one thread; median and range of
processor time, and of the ratio to the first way in the same turn. Pictures are noise: what they show costs nothing.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from fedwarm.core.compute import torch_threads
from fedwarm.core.seeds import generator
from fedwarm.diffusion.foundation import Foundation, load_foundation
from fedwarm.diffusion.lora import attached, first_matrices, load_adapter
from fedwarm.diffusion.merged import drawing, learning
from fedwarm.diffusion.sampling import sample
from fedwarm.diffusion.settings import Diffusion
from fedwarm.diffusion.sizes import EXACT_ROWS
from fedwarm.diffusion.steps import adamw
from fedwarm.diffusion.tuning import Examples, Tuning

Ways = dict[str, Callable[[], float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="steps of an adapter in each turn")
    given = parser.parse_args()
    with torch_threads(1):
        foundation = load_foundation(Diffusion(), "cpu")
        told("a step of an adapter, batch 16", step_ways(foundation, given.steps), given.repeats)
        told("an image", image_ways(foundation), given.repeats)


def told(what: str, ways: Ways, repeats: int) -> None:
    """Print a table of the ways' milliseconds."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            found[name].append(1000 * way())
    first = next(iter(found.values()))
    print(f"| {what} | ms of a processor | ratio |\n|---|---|---|")
    for name, took in found.items():
        ratios = [each / base for each, base in zip(took, first, strict=True)]
        print(f"| {name} | {spread(took, 0)} | {spread(ratios, 2)} |")


def spread(values: list[float], digits: int) -> str:
    """Median (least to most)."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def step_ways(foundation: Foundation, steps: int) -> Ways:
    """Seconds a step, with peft's products beside the layers and merged."""
    images = torch.randint(256, (64, 3, 32, 32), dtype=torch.uint8, generator=generator(0, "pictures"))
    tuning = Tuning(foundation, images, torch.arange(64) % 10, [f"a photo of a {n}" for n in range(10)], Diffusion(), 0, 0)
    examples = Examples.of(tuning)

    def way(apart: bool) -> float:
        with learning(foundation, tuning.settings, 0, 0, apart) as (net, parameters, _):
            optimiser, draws = adamw(parameters, tuning.settings), generator(0, "batches")

            def step() -> None:
                loss = examples.loss(net, tuning.settings.lora_batch_size, draws)
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()

            step()
            return clocked(lambda: [step() for _ in range(steps)]) / steps

    return {"products beside the layers": lambda: way(True), "merged": lambda: way(False)}


def image_ways(foundation: Foundation) -> Ways:
    """Seconds an image, with an adapter beside the layers and merged, by denoising steps."""
    adapter = first_matrices(foundation, Diffusion(), 0, 0)
    prompts, seeds = ["a photo of a 7"] * EXACT_ROWS, range(EXACT_ROWS)

    @contextmanager
    def beside() -> Iterator[None]:
        with attached(foundation.net, Diffusion(), 0, "beside"):
            load_adapter(foundation.net, adapter)
            yield

    def way(steps: int, apart: bool) -> float:
        settings = replace(Diffusion(), sample_steps=steps)
        with beside() if apart else drawing(foundation.net, settings, adapter):
            return clocked(lambda: sample(foundation, prompts, seeds, settings, 32)) / EXACT_ROWS

    found: Ways = {"12 steps, products beside the layers": lambda: way(12, True)}
    for steps in (12, 6, 4):
        found[f"{steps} steps, merged"] = lambda steps=steps: way(steps, False)
    return found


def clocked(work: Callable[[], object]) -> float:
    """Seconds of processor time."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


if __name__ == "__main__":
    main()

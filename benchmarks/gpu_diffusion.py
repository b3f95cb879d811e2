"""The steps of gpu.py that tune and draw: the project's loops beside what they replaced, and beside diffusers' own pipeline."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from hollowed_cases import PROMPTS, sd15
from torch import Tensor

from fedwarm.core.seeds import generator
from fedwarm.diffusion.foundation import PRECISIONS, Foundation, load_foundation
from fedwarm.diffusion.lora import FIRST, attached, targeted_by_adapter
from fedwarm.diffusion.merged import learning
from fedwarm.diffusion.offload import working
from fedwarm.diffusion.sampling import make_scheduler, sample, start_latents
from fedwarm.diffusion.settings import Diffusion
from fedwarm.diffusion.steps import Scaling, adamw
from fedwarm.diffusion.tuning import Examples, Tuning

LAYOUTS = ("glyph", "sd15", "tiny")
Part = Callable[[], object]
Way = Callable[[], Part]
Figures = dict[str, Any]


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def foundation_of(layout: str, asked: argparse.Namespace) -> tuple[Foundation, Diffusion]:
    """A foundation and settings that suit it: the embedded one, Stable Diffusion 1.5's layout whole, or one to try the script."""
    if layout == "glyph":
        settings = Diffusion()
        return load_foundation(settings, asked.device), settings
    device, dtype = torch.device(asked.device), PRECISIONS[asked.precision]
    settings = Diffusion(lora_learning_rate=1e-4, sample_steps=25, guidance=7.5)
    if layout == "tiny":
        from fedwarm.diffusion.pretraining.untrained import Recipe, build_pipeline, build_tokenizer

        recipe = Recipe(unet_channels=(8, 8), vae_channels=(8, 8), text_width=8, text_layers=1)
        pipe = build_pipeline(recipe, build_tokenizer(PROMPTS, recipe.tokens)).to(device, dtype)
        for part in (pipe.unet, pipe.vae, pipe.text_encoder):
            part.requires_grad_(False).eval()
        settings = replace(settings, sample_steps=2)
    else:
        pipe = sd15(argparse.Namespace(whole=True, image_size=512, device=asked.device), dtype)
    pipe.set_progress_bar_config(disable=True)
    return Foundation(pipe, device, dtype, ""), settings


@dataclass
class Took:
    """What some calls of a part took: seconds by the clock and of the process, and what the last one gave."""

    clock: list[float] = field(default_factory=list)
    spent: list[float] = field(default_factory=list)
    given: Any = None


def in_turn(ways: Mapping[str, Way], turns: int, device: torch.device) -> dict[str, Took]:
    """What each way took, in turn, each other turn backwards; one turn before warms up. A way makes what is timed."""
    found = {name: Took() for name in ways}
    for turn in range(turns + 1):
        for name in list(ways)[:: 1 - 2 * (turn % 2)]:
            part, took = ways[name](), found[name]
            synchronise(device)
            begun, spent = time.perf_counter(), time.process_time()
            took.given = part()
            synchronise(device)
            if turn:
                took.clock.append(time.perf_counter() - begun)
                took.spent.append(time.process_time() - spent)
    return found


def ratio(of: list[float], over: list[float]) -> list[float]:
    """Median, least and most of the ratios within turns."""
    found = [a / b for a, b in zip(of, over, strict=True)]
    return [round(value, 4) for value in (statistics.median(found), min(found), max(found))]


@contextmanager
def as_it_was(foundation: Foundation, settings: Diffusion) -> Iterator[tuple[Any, list[Any]]]:
    """An adapter as peft attaches it: products beside the layers, and in half precision a float32 copy of each one's input."""
    with attached(foundation.net, settings, 0, FIRST, 0) as parameters:
        for layer in targeted_by_adapter(foundation.net):
            layer.cast_input_dtype_enabled = True
            for matrices in (*layer.lora_A.values(), *layer.lora_B.values()):
                matrices.__class__ = torch.nn.Linear
        yield foundation.net, parameters


def lora_ways(foundation: Foundation, settings: Diffusion, steps: int, left: ExitStack) -> dict[str, Way]:
    """Some whole steps of an adapter: as runs make them, with AdamW as torch has it, and as they were before both changed.

    Args:
        left: takes an adapter off when the next way begins, and at its end.
    """
    images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8, generator=generator(0, "pictures"))
    tuning = Tuning(foundation, images, torch.arange(8) % len(PROMPTS), PROMPTS, settings, 0, 0)
    examples, rate = Examples.of(tuning), settings.lora_learning_rate

    def way(old: bool, plain: bool) -> Part:
        left.close()
        learner = as_it_was(foundation, settings) if old else learning(foundation, settings, 0, 0, False)
        net, parameters, *_ = left.enter_context(learner)
        optimiser = torch.optim.AdamW(parameters, lr=rate) if plain else adamw(parameters, settings)
        scaling, draws = Scaling(foundation.device, foundation.dtype), generator(0, "batches")

        def step() -> None:
            loss = examples.loss(net, settings.lora_batch_size, draws)
            optimiser.zero_grad()
            scaling.backward(loss)
            scaling.step(optimiser)

        step()
        return lambda: [step() for _ in range(steps)]

    names = {"now": (False, False), "plain AdamW": (False, True), "as it was": (True, True)}
    return {name: partial(way, *which) for name, which in names.items()}


def lora(asked: argparse.Namespace) -> Figures:
    """Seconds of a whole step, and how many times as long plain AdamW and the loop before both changes take."""
    found: Figures = {}
    steps = 2 if asked.toy else 50
    for layout in asked.layouts:
        foundation, settings = foundation_of(layout, asked)
        foundation.net.train()
        for batch in (1, 4):
            with ExitStack() as left:
                ways = lora_ways(foundation, replace(settings, lora_batch_size=batch), steps, left)
                took = in_turn(ways, asked.pairs, foundation.device)
            row = {f"{name} / now": ratio(took[name].clock, took["now"].clock) for name in ("plain AdamW", "as it was")}
            found[f"{layout}, batch {batch}"] = {"seconds a step": statistics.median(took["now"].clock) / steps, **row}
    return found


def ours(foundation: Foundation, prompts: Sequence[str], settings: Diffusion) -> Tensor:
    """uint8 images of sentences, with the seeds 0, 1, .., as runs draw them."""
    return sample(foundation, prompts, range(len(prompts)), settings, foundation.image_size)


def theirs(foundation: Foundation, prompts: Sequence[str], settings: Diffusion) -> Tensor:
    """The same by diffusers' own pipeline."""
    pipe, kept = foundation.pipe, foundation.pipe.scheduler
    pipe.scheduler = make_scheduler(foundation, settings.scheduler)
    latents = torch.cat([start_latents(foundation, seed) for seed in range(len(prompts))]).to(foundation.dtype)
    encoders = [getattr(pipe, name) for name in foundation.family.encoders]
    given = {"num_inference_steps": settings.sample_steps, "guidance_scale": settings.guidance, "latents": latents}
    with working(encoders, foundation.device):
        drawn = pipe(list(prompts), output_type="pt", **given).images
    pipe.scheduler = kept
    images: Tensor = (255 * drawn).round().to(torch.uint8).cpu()
    return images


def drawing(asked: argparse.Namespace) -> Figures:
    """The project's drawing over diffusers' own pipeline: the same sentences, noise, sampler, steps, guidance and batch."""
    found: Figures = {}
    for layout in asked.layouts:
        foundation, settings = foundation_of(layout, asked)
        batch = foundation.exact_rows if asked.device == "cpu" else 64 if layout == "glyph" else 8
        settings = replace(settings, sample_batch_size=batch)
        prompts = [PROMPTS[i % len(PROMPTS)] for i in range(batch)]
        parts = {draw.__name__: partial(draw, foundation, prompts, settings) for draw in (ours, theirs)}
        took = in_turn({name: partial(lambda part: part, part) for name, part in parts.items()}, asked.pairs, foundation.device)
        mine, other = took["ours"], took["theirs"]
        found[layout] = {
            "ours / theirs": ratio(mine.clock, other.clock),
            "by process time": ratio(mine.spent, other.spent),
            "most grey levels apart": int((mine.given.int() - other.given.int()).abs().max()),
            "images a second": batch / statistics.median(mine.clock),
            "seconds": {"ours": mine.clock, "theirs": other.clock},
            "process seconds": {"ours": mine.spent, "theirs": other.spent},
            "settings": [batch, settings.sample_steps, settings.guidance, str(foundation.dtype)],
        }
    return found

"""A while of training on a site's own data, before it joins: how long a step takes there, and what it needs."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fedwarm.core.capacity import GB
from fedwarm.core.compute import torch_threads
from fedwarm.core.seeds import generator
from fedwarm.data.settings import Data
from fedwarm.data.shards import Shard, load_shard
from fedwarm.models import Model, build_model, device_of
from fedwarm.node.finding import Finding, fault, ok, unseen, warning
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError
from fedwarm.tasks import task_of
from fedwarm.training.loop import Batch, Hook, Plan, fit

TOPIC = "training"
MOST_SECONDS, SLOW_SECONDS = 20.0, 5.0
STEPS, LEAST_SECONDS, ALIKE = 20, 2.0, 0.1
"""Steps and seconds after which both halves of a trial are compared: where their steps differ by less, they are stable."""
WITHOUT_END = 10**6


class Enough(Exception):  # noqa: N818
    """A trial has lasted as long as it may, or its steps are stable."""


class Clock(Hook):
    """Times whole steps, from one's gradient to the next one's, after the first; ends the training.

    Attributes:
        seconds: of each step.
        examples: of each step.
    """

    uses = "weights"

    def __init__(self, limit_seconds: float, device: torch.device) -> None:
        self.limit, self.device = limit_seconds, device
        self.seconds, self.examples = list[float](), list[int]()
        self.begun = self.last = time.monotonic()
        self.rows, self.warm = 0, False

    def loss(self, batch: Batch, loss: Tensor) -> Tensor:
        """As it was."""
        self.rows = len(batch.rows)
        return loss

    def gradient(self, model: nn.Module) -> None:
        """Note the time; raises Enough."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.monotonic()
        if self.warm:
            self.seconds.append(now - self.last)
            self.examples.append(self.rows)
        self.warm, self.last = True, now
        if self.seconds and (now - self.begun >= self.limit or self.stable):
            raise Enough

    @property
    def stable(self) -> bool:
        """Whether more steps would tell no more."""
        half = len(self.seconds) // 2
        if len(self.seconds) < STEPS or sum(self.seconds) < LEAST_SECONDS:
            return False
        early, late = sum(self.seconds[:half]) / half, sum(self.seconds[half:]) / (len(self.seconds) - half)
        return abs(early - late) <= ALIKE * late


class Trial(NamedTuple):
    """What a trial came to.

    Attributes:
        steps: that were timed.
        step_seconds: of one, on average.
        examples_per_second: trained on.
        batch: examples of a full step.
        device: of the training.
        memory_bytes: the most that this process had, data among it.
        card_bytes: the most that the training had on a GPU; 0 without one.
    """

    steps: int
    step_seconds: float
    examples_per_second: float
    batch: int
    device: torch.device
    memory_bytes: int
    card_bytes: int


def tried(config: Config, shard: Shard, limit_seconds: float) -> Trial:
    """Train the model of the settings on a site's data, by their optimiser, batch size and task, without a method's own terms.

    At least two steps are taken, however long they are.

    Args:
        limit_seconds: the most that it lasts beyond these.

    Raises:
        SettingError: the model cannot be built for such data.
        RuntimeError: a step failed.
    """
    run, device = config.run, device_of(config.run.device)
    model = build_model(config.of(Model), task_of(run).width(len(shard.classes)), shard.form, run.seed).to(device)
    plan, clock = Plan.of(run, WITHOUT_END, run.learning_rate), Clock(limit_seconds, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        with torch_threads(run.client_threads):
            fit(model, shard.train_images, shard.train_labels, plan, generator(run.seed, "trial"), [clock], stage="trial")
    except Enough:
        pass
    spent = sum(clock.seconds)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    card = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    steps, batch = len(clock.seconds), max(clock.examples)
    return Trial(steps, spent / steps, sum(clock.examples) / spent, batch, device, most, card)


def look_at_training(config: Config, data: Data, limit_seconds: float = MOST_SECONDS) -> Iterator[Finding]:
    """How fast and with how much memory this machine trains a run's model on its own data.

    Args:
        config: the run's settings, as far as they are known.
        data: the settings of its data, `name` being the folder, which was found to be good.
        limit_seconds: the most that it lasts; 0: nothing is trained.
    """
    name = config.of(Model).name
    if not limit_seconds:
        yield from unseen("as --seconds is 0", TOPIC)
        return
    try:
        shard = load_shard(data, config.run.seed, 0, 1)
        found = tried(config, shard, limit_seconds)
    except SettingError as error:
        yield from unseen(f"as {name} cannot be trained on these data ({error}); -c model.name=NAME tries another model", TOPIC)
        return
    except RuntimeError as error:
        yield fault(TOPIC, f"a step of {name} failed ({str(error).splitlines()[0]}); see memory, torch and the GPU's driver")
        return
    yield (warning if found.step_seconds > SLOW_SECONDS else ok)(TOPIC, _told(name, found, shard))


def _told(name: str, found: Trial, shard: Shard) -> str:
    gpu, what = found.device.type == "cuda", "pictures" if shard.form.pictures else "examples"
    no = "" if torch.cuda.is_available() else ", no CUDA GPU"
    where = torch.cuda.get_device_name(found.device) if gpu else f"the CPU{no}"
    speed = f"{found.step_seconds:.3g} s a step of {found.batch} {what}, {found.examples_per_second:,.0f} {what} a second"
    card = f", {found.card_bytes / GB:.2f} GB of the GPU's" if gpu else ""
    memory = f"{found.memory_bytes / GB:.2f} GB of memory at most{card}"
    slow = "; that is slow" if found.step_seconds > SLOW_SECONDS else ""
    return f"{name} on {where}: {speed} ({found.steps} timed), {memory}{slow}"

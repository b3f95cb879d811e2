"""How long tuning and drawing take, told before a run: by a step of the foundation's net that is timed on the device.

The net is built by its configuration and without its numbers, which no time hangs on; what is too much for a trial on a CPU is
timed on smaller images and scaled by the operations that are counted of both. So it is an
estimate, good to a factor of about two.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fedwarm.core import placement
from fedwarm.core.capacity import cores
from fedwarm.core.compute import torch_threads
from fedwarm.core.forms import second_text
from fedwarm.core.nodes import Patience
from fedwarm.diffusion.families import Family
from fedwarm.diffusion.foundation import EMBEDDED, PRECISIONS, precision_of
from fedwarm.diffusion.needs import bare
from fedwarm.diffusion.pipeline import folder_family
from fedwarm.diffusion.presets import folder_of
from fedwarm.diffusion.settings import Diffusion
from fedwarm.diffusion.tuners import tuner_for
from fedwarm.diffusion.views import PLACES
from fedwarm.models import device_of
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError

TRIAL = 1e11  # operations of a trial on a CPU, at most: some seconds
FILL = 0.01
OFF = 2.0  # how many times less a thing may take than it was estimated to


@dataclass(frozen=True)
class Pace:
    """Seconds that one worker takes: for an adapter's step, to encode an original, and to draw an image."""

    step: float
    original: float
    image: float


USUAL = Pace(step=0.08, original=0.0, image=0.042)
"""Of the embedded foundation at the default settings, on one idle core of 2026."""


@dataclass(frozen=True)
class Work:
    """What a run has its foundation do: originals of each client that tunes an adapter, and images to draw."""

    originals: tuple[int, ...]
    images: int


def told(config: Config, work: Work) -> str:
    """A line about how long it takes on this machine; empty where nothing tells.

    Raises:
        SettingError: an adapter takes more than twice the time that a stage waits; one that takes less may be done, and is told.
    """
    found = pace_of(config)
    if found is None:
        return ""
    settings, hands = config.of(Diffusion), hands_of(config, len(work.originals))
    tuned = [_tuning(settings, found, count) for count in work.originals]
    late = _late(max(tuned, default=0.0), settings.lora_steps, Patience.of(config.run, False).seconds("adapt"))
    seconds = sum(_seconds(config, work, found, min(cores(), config.run.server_threads)))
    whose = {"cpu": f"{hands} cores", "cuda": f"{hands} GPUs"}[_device(config).type] if hands > 1 else "one worker"
    parts = [f"{len(tuned)} adapters ({second_text(found.step)} a step)"] if tuned else []
    parts += [f"{work.images:,} images ({second_text(found.image)} each)"]
    return f"{' and '.join(parts)} take about {second_text(seconds)} of {whose}, by a step that was timed here{late}"


def efforts(config: Config, work: Work) -> tuple[float, float] | None:
    """Seconds of all tuning and of all drawing; None where nothing tells, or nothing was timed in this process yet.

    Of the embedded foundation they are those of cores as `USUAL` was measured on, so that only what they are beside each other
    counts elsewhere.
    """
    settings = config.of(Diffusion)
    if settings.foundation not in EMBEDDED:
        found = pace_of(config) if _key(config) in _asked else None  # a server whose clients are elsewhere does not time itself
        return None if found is None else _seconds(config, work, found, min(cores(), config.run.server_threads))
    usual = Diffusion()
    step = USUAL.step * settings.lora_batch_size / usual.lora_batch_size
    image = USUAL.image * settings.sample_steps / usual.sample_steps * (1.0 if settings.guidance != 1 else 0.5)
    return _seconds(config, work, Pace(step, USUAL.original, image), cores())


def _seconds(config: Config, work: Work, pace: Pace, threads: int) -> tuple[float, float]:
    """Of tuning and of drawing, the latter by so many threads where it is no GPU that draws."""
    hands = hands_of(config, len(work.originals))
    tuned = sum(_tuning(config.of(Diffusion), pace, count) for count in work.originals)
    return tuned / hands, work.images * pace.image / (hands if _device(config).type == "cuda" else threads)


def _late(longest: float, steps: int, wait: float) -> str:
    """What to say where an adapter may not be done within the time that a stage waits; SettingError where it cannot be."""
    if longest <= wait:
        return ""
    takes = f"an adapter of {steps} steps takes about {second_text(longest)} here, and a stage waits {second_text(wait)}"
    if longest > OFF * wait:
        raise SettingError(
            f"{takes}; lower diffusion.lora-steps, diffusion.lora-batch-size or diffusion.image-size, raise stage-timeout, or "
            "take a GPU"
        )
    return f"; {takes}: raise stage-timeout to be sure"


def pace_of(config: Config) -> Pace | None:
    """The pace of a run's workers on this machine; None where its foundation is embedded, or no folder tells."""
    key = _key(config)
    _asked.add(key)
    return None if key[0] is None else _pace(key[0], *key[1:])


def _key(config: Config) -> tuple[Path | None, _Timed, torch.device, int]:
    return folder_of(config.of(Diffusion).foundation), _Timed(config), _device(config), config.run.client_threads


def _device(config: Config) -> torch.device:
    return device_of(config.run.device)


def hands_of(config: Config, clients: int) -> int:
    """How many of so many clients work at a time: as many as there are cards, or cores."""
    return max(1, placement.cards() if _device(config).type == "cuda" else min(cores(), clients or 1))


def _tuning(settings: Diffusion, pace: Pace, originals: int) -> float:
    """Seconds of one adapter."""
    views = (PLACES if settings.crop == "random" else 1) * (2 if settings.flip else 1)
    return settings.lora_steps * pace.step + originals * views * pace.original


class _Timed:
    """The settings of a run; the same as those of another where they have foundation and tuner alike."""

    def __init__(self, config: Config) -> None:
        self.config = config
        own = tuner_for(config).settings
        self._decides = config.of(Diffusion), None if own is None else config.of(own)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Timed) and other._decides == self._decides

    def __hash__(self) -> int:
        return hash(self._decides)


_asked: set[tuple[Path | None, _Timed, torch.device, int]] = set()
"""What was timed in this process, or cannot be."""


@lru_cache(maxsize=4)
def _pace(folder: Path, timed: _Timed, device: torch.device, threads: int) -> Pace | None:
    settings = timed.config.of(Diffusion)
    try:
        with torch_threads(threads):
            return Trial(folder, folder_family(folder), timed.config, device).pace()
    except torch.OutOfMemoryError as error:
        raise SettingError(
            f"a step on {settings.lora_batch_size} images of diffusion.foundation = {settings.foundation!r} does not fit into "
            f"the memory of {device}; set diffusion.gradient-checkpointing=true, lower diffusion.lora-batch-size or "
            "diffusion.image-size"
        ) from error
    except (OSError, ValueError, RuntimeError, AttributeError, TypeError, NotImplementedError):  # left to its loader
        return None


class Trial:
    """A foundation's net on a device, with numbers that mean nothing.

    Args:
        most: operations that a trial may take on a CPU.
    """

    def __init__(self, folder: Path, family: Family, config: Config, device: torch.device, most: float = TRIAL) -> None:
        settings = config.of(Diffusion)
        self.family, self.settings, self.device, self.most = family, settings, device, most
        self.dtype = PRECISIONS[precision_of(settings, device.type)]
        self.pipe = bare(folder, family)
        self.net: Any = getattr(self.pipe, family.net).to(self.dtype).requires_grad_(False)
        self.side = settings.image_size or int(self.net.config.sample_size) * self.pipe.vae_scale_factor
        self.operations: dict[int, float] = {}
        latent = self.side // self.pipe.vae_scale_factor
        self.steps = tuner_for(config).steps(self.net, 0, self.dtype, family.told(self.pipe)[0], latent)

    def pace(self) -> Pace:
        """Times a forward pass, and one with gradients."""
        side = self._trial_side()
        whole, scale = self.operations[self.side], self.operations[self.side] / self.operations[side]
        latents = self.pipe.vae.encoder, self.pipe.vae.decoder
        encoded, decoded = (counted(partial(part, self._picture(part))) for part in latents)
        _filled(self.net, self.device)
        small, s = self.device.type == "cpu", self.settings
        guided = 2 if s.guidance != 1 else 1
        most = max(1, int(self.most // self.operations[side])) if small else 10**6
        batch, drawn = min(most, s.lora_batch_size), min(most, s.sample_batch_size * guided)
        with torch.no_grad():
            forward = self._timed(self._forward(drawn, side)) * scale / drawn
        for part in self.steps.out:
            part.to("meta")
        if s.gradient_checkpointing:
            self.net.enable_gradient_checkpointing()
        self.net.train()
        step = self._timed(self._backward(batch, side)) * scale / batch
        step += self.steps.asked * forward
        return Pace(step * s.lora_batch_size, encoded * forward / whole, (s.sample_steps * guided + decoded / whole) * forward)

    def _trial_side(self) -> int:
        """The side that is timed: the whole one, or on a CPU one that is soon done."""
        side, step = self.side, self.family.step(self.pipe)
        self._count(side)
        while self.device.type == "cpu" and side % (2 * step) == 0 and self.operations[side] > self.most:
            side //= 2
            self._count(side)
        return side

    def _count(self, side: int) -> None:
        self.operations[side] = counted(self._forward(1, side, torch.device("meta")))

    def _inputs(self, rows: int, side: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        latent = side // self.pipe.vae_scale_factor
        noisy = torch.ones(rows, self.net.config.in_channels, latent, latent, dtype=self.dtype, device=device)
        context = torch.ones(rows, *self.family.told(self.pipe), dtype=self.dtype, device=device)
        return noisy, torch.ones(rows, device=device), context

    def _forward(self, rows: int, side: int, device: torch.device | None = None) -> Callable[[], Tensor]:
        noisy, when, context = self._inputs(rows, side, device or self.device)
        return lambda: self.family.predict(self.pipe, self.net, noisy, when, context, side)

    def _backward(self, rows: int, side: int) -> Callable[[], None]:
        """A pass of what is tuned, whose gradients go to what it is told, as they do to its adapter."""
        noisy, when, context = self._inputs(rows, side, self.device)
        noisy.requires_grad_()
        return lambda: self.family.predict(self.pipe, self.steps.net, noisy, when, context, side).sum().backward()

    def _picture(self, part: nn.Module) -> Tensor:
        """What the autoencoder's encoder or decoder takes, without numbers."""
        config, side = self.pipe.vae.config, self.side
        if part is self.pipe.vae.encoder:
            return torch.empty(1, config.in_channels, side, side, device="meta")
        latent = side // self.pipe.vae_scale_factor
        return torch.empty(1, config.latent_channels, latent, latent, device="meta")

    def _timed(self, work: Callable[[], object]) -> float:
        """Seconds of the second time that something is done; a GPU's first time is longer."""
        found = 0.0
        for _ in range(2):
            begun = time.perf_counter()
            work()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            found = time.perf_counter() - begun
        return found


def counted(work: Callable[[], object]) -> float:
    """Floating-point operations of work without numbers."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


@torch.no_grad()
def _filled(net: nn.Module, device: torch.device) -> None:
    """Give a net memory on a device."""
    net.to_empty(device=device)
    for tensor in (*net.parameters(), *net.buffers()):
        tensor.fill_(FILL if tensor.is_floating_point() else 0)

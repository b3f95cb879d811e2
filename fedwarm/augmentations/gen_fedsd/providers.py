"""Where synthetic images come from: a foundation, a table of real ones, or transforms of the client's own.

Image i of a class of an owner (a client, or the pool that all draw from) is a function of (run, owner, class, i): of nothing
that is drawn with it, of no order, and not of who drew it before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from fedwarm.augmentations.gen_fedsd.amounts import GenFedSD
from fedwarm.augmentations.gen_fedsd.identity import identity, key_of, provenance, sampler
from fedwarm.augmentations.gen_fedsd.judge import ASKED, Judge, scores
from fedwarm.augmentations.gen_fedsd.real import DRAWS, Chosen, Transformed
from fedwarm.augmentations.gen_fedsd.shelf import POOL, Drawn, Owner, Shelf
from fedwarm.core.compute import torch_threads
from fedwarm.core.seeds import derive, numpy_generator
from fedwarm.data import Shard
from fedwarm.data.settings import Data
from fedwarm.diffusion.foundation import load_foundation
from fedwarm.diffusion.sampling import EXACT_ROWS, sample
from fedwarm.models import device_of
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError

SPEED_IMAGES = 16


class Provider(Protocol):
    """Images of classes, by index."""

    def stock(self, label: int) -> int | None:
        """How many different images of a class all clients draw from; None: each client has as many of its own as it wants."""

    def take(self, client: int, label: int, indices: Sequence[int]) -> tuple[Drawn, int]:
        """The images, in the order asked, and how many had to be drawn for it."""


def indices(seed: int, client: int, label: int, count: int, stock: int | None, allow_repeat: bool, name: str = "") -> list[int]:
    """Which images of a class a client takes: the first of a random order of the stock that is its own.

    Args:
        count: how many.
        stock: different images that there are; None: the client's own, numbered from 0.
        allow_repeat: begin another random order when the stock is exhausted.
        name: of the class, for the error.

    Raises:
        SettingError: the stock is too small.
    """
    if stock is None:
        return list(range(count))
    if count > stock and (not allow_repeat or stock == 0):
        raise SettingError(
            f"client {client} lacks {count} images of class {name or label!r} and there are {stock}; raise gen-fedsd.pool, give "
            "more images in gen-fedsd.file, set cap or a budget, or gen-fedsd.allow-repeat = true"
        )
    orders = numpy_generator(seed, DRAWS, "pool", client, label)
    rounds = [orders.permutation(stock) for _ in range(-(-count // stock) if stock else 0)]
    return [int(i) for i in np.concatenate(rounds)[:count]] if rounds else []


class Generated:
    """Images that a foundation draws from sentences, through the shelf.

    Args:
        config: the run's settings.
        classes: names of the classes.
        root: below which the shelf lies.
    """

    def __init__(self, config: Config, classes: Sequence[str], root: Path) -> None:
        self.config, self.settings, self.classes = config, config.of(GenFedSD), tuple(classes)
        self.facts: Mapping[str, Any] = identity(config, classes)
        self.size = config.of(Data).image_size
        tell = partial(provenance, self.facts, config, self.classes)
        self.shelf = Shelf(root, key_of(self.facts), self.size, tell, config.run.client_state_mb)

    @cached_property
    def judge(self) -> Judge | None:
        """The classifier that looks at what is drawn."""
        return Judge.of(self.config, len(self.classes)) if self.settings.judge else None

    def owner(self, client: int) -> Owner:
        """Whose images a client takes."""
        return POOL if self.settings.pool else client

    def stock(self, label: int) -> int | None:
        return self.settings.pool or None

    def take(self, client: int, label: int, indices: Sequence[int]) -> tuple[Drawn, int]:
        owner = self.owner(client)
        return self.shelf.take(owner, label, indices, partial(self.draw, owner, label), self.batch, self.settings.pool)

    @property
    def batch(self) -> int:
        """Images that cost as much as one: a CPU always draws sixteen."""
        return EXACT_ROWS if device_of(self.config.run.device).type == "cpu" else 1

    @property
    def own_batch(self) -> int:
        """Of the images of a class, how many a client pays for together; what a pool draws beside its own serves others."""
        return 1 if self.settings.pool else self.batch

    def cost(self, count: int) -> int:
        """How many images a client's share of a class costs."""
        return -(-count // self.own_batch) * self.own_batch

    def find(self, client: int, label: int, indices: Sequence[int]) -> Drawn:
        """Those of the images that are there already."""
        return self.shelf.find(self.owner(client), label, indices)

    def draw(self, owner: Owner, label: int, indices: Sequence[int]) -> Drawn:
        """Draw images, and draw anew those that are blank or that the judge refuses; the best draw of each stays."""
        with torch_threads(self.config.run.client_threads):  # part of an image, whoever draws it
            return self._drawn(owner, label, indices)

    def _drawn(self, owner: Owner, label: int, indices: Sequence[int]) -> Drawn:
        known, n = self.facts["prompts"][label], len(indices)
        prompts = [i % len(known) for i in indices]
        images = torch.empty(n, 3, self.size, self.size, dtype=torch.uint8)
        seeds, tries, best = torch.zeros(n, dtype=torch.int64), torch.zeros(n, dtype=torch.int64), torch.full((n,), -2.0)
        seconds, rows = torch.zeros(n), list(range(n))
        foundation = load_foundation(sampler(self.config), self.config.run.device)
        for attempt in range(self.settings.judge_tries if n else 0):
            begun = time.monotonic()
            own = [derive(self.config.run.seed, DRAWS, owner, label, indices[row], attempt) for row in rows]
            asked = [known[prompts[row]] for row in rows]
            stage = DRAWS if attempt == 0 else f"{DRAWS} again"
            drawn = sample(foundation, asked, own, sampler(self.config), self.size, stage)
            got, chosen = scores(self.judge, drawn, label), torch.tensor(rows)
            better = got > best[chosen]
            kept = chosen[better]
            images[kept], best[kept], seeds[kept] = drawn[better], got[better], torch.tensor(own)[better]
            tries[chosen] += 1
            seconds[chosen] += (time.monotonic() - begun) / len(rows)
            rows = [row for row in rows if best[row] < self.least]
            if not rows:
                break
        return Drawn(images, torch.tensor(indices), seeds, torch.tensor(prompts), tries, best, seconds)

    @property
    def least(self) -> float:
        """The score below which an image is drawn anew."""
        return self.settings.judge_least if self.settings.judge else ASKED

    def speed(self, measure: bool = True) -> float:
        """Seconds an image, measured once on this machine by sixteen that are thrown away, and kept on the shelf.

        Without `measure` nothing is drawn for it: 0 where it is not known.
        """
        return self.shelf.measured(self._measure) if measure else self.shelf.speed() or 0.0

    def _measure(self) -> float:
        load_foundation(sampler(self.config), self.config.run.device)
        begun = time.monotonic()
        self.draw("speed", 0, range(SPEED_IMAGES))
        return (time.monotonic() - begun) / SPEED_IMAGES


def provider_of(config: Config, classes: Sequence[str], root: Path, shard: Shard | None = None) -> Provider | None:
    """The provider of the settings; None for `none`, and for `transforms` without a shard.

    Raises:
        SettingError: it cannot be used.
    """
    makers: dict[str, Callable[[], Provider | None]] = {
        "foundation": lambda: Generated(config, classes, root),
        "file": lambda: Chosen(config, classes),
        "transforms": lambda: None if shard is None else Transformed(config, shard),
        "none": lambda: None,
    }
    return makers[config.of(GenFedSD).provider]()

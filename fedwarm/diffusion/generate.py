"""Fill a pool: for one client and its classes, so many images per class, from its adapter or from prompts alone."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from threading import Barrier, BrokenBarrierError

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedwarm.core.over_cards import over_cards
from fedwarm.core.progress import tick
from fedwarm.core.seeds import derive
from fedwarm.core.spread import spread
from fedwarm.diffusion.foundation import Foundation
from fedwarm.diffusion.merged import drawing
from fedwarm.diffusion.pool import Pool
from fedwarm.diffusion.sampling import Batches, Through, drawn_anew
from fedwarm.diffusion.settings import Diffusion

Job = tuple[int, int]
Picture = NDArray[np.uint8]
Drawn = Generator[tuple[Job, Picture], None, None]
Load = Callable[[], Foundation]


@dataclass(frozen=True)
class Order:
    """Images for one client: so many of each listed class.

    Attributes:
        prompts: one sentence per class of the data set.
        classes: the classes to draw.
        per_class: images of each.
        seed, client: the run's seed, and whose adapter draws.
        size: height and width in pixels.
        draw: counts repeated generations for the same client.
    """

    prompts: Sequence[str]
    classes: Sequence[int]
    per_class: int
    seed: int
    client: int
    size: int
    draw: int = 0

    def labels(self) -> list[int]:
        """The class of each image."""
        return [c for c in self.classes for _ in range(self.per_class)]

    def seeds(self) -> list[int]:
        """The seed of each image's noise."""
        keys = ((c, i) for c in self.classes for i in range(self.per_class))
        return [derive(self.seed, "image", self.client, c, i, self.draw) for c, i in keys]


@dataclass(frozen=True)
class Commission:
    """An order and what it is drawn by.

    Attributes:
        order: for whom, and what.
        adapter: the client's matrices; None: the bare foundation.
        settings: the sampler's, and those that the adapter is attached by.
        through: gives a batch (see `sample`).
    """

    order: Order
    adapter: Mapping[str, Tensor] | None
    settings: Diffusion
    through: Through = drawn_anew

    def batches(self, foundation: Foundation) -> Batches:
        """What is asked for."""
        sentences = [self.order.prompts[c] for c in self.order.labels()]
        return Batches(foundation, sentences, self.order.seeds(), self.settings, self.order.size)


def generate(foundation: Foundation, adapter: Mapping[str, Tensor] | None, order: Order, settings: Diffusion) -> Pool:
    """The images of one order (see `generate_all`)."""
    return generate_all(foundation, [Commission(order, adapter, settings)])[0]


def generate_all(
    foundation: Foundation, commissions: Sequence[Commission], cards: int = 1, load: Load | None = None
) -> list[Pool]:
    """The images of some orders.

    An image is a function of (seed, client, class, index, draw), the weights and the sampler; not of the batch size, nor of who
    draws it: a small foundation's images are spread over the processes that the run may use, on several cards orders go over them
    in turn, and all others are drawn here.

    Args:
        foundation: for what is asked of all.
        cards: how many there are.
        load: gives the foundation on the card of whoever calls it.

    Raises:
        ValueError: an adapter does not fit the foundation.
    """
    studio = Studio(foundation, commissions)
    jobs = [(number, start) for number, asked in enumerate(studio.asked) for start in asked.starts]
    parts = {job: batch for job in jobs if (batch := studio.kept(job)) is not None}
    left = [job for job in jobs if job not in parts]
    with closing(_drawn(studio, left, cards, load)) as drawn:
        for job, picture in drawn:
            parts[job] = studio.keep(job, torch.from_numpy(picture))
            tick("images", len(parts), len(jobs))
    return [studio.pool(number, [parts[job] for job in jobs if job[0] == number]) for number in range(len(commissions))]


def _drawn(studio: Studio, jobs: Sequence[Job], cards: int, load: Load | None) -> Drawn:
    """Batches as they come, by whoever is best for them."""
    if load is not None and cards > 1:
        turns = [[job for job in jobs if job[0] % cards == card] for card in range(cards)]
        ready = Barrier(max(1, sum(map(bool, turns))))
        return over_cards([partial(_on_card, studio.commissions, own, load, ready) for own in turns])
    return spread(studio.draw, jobs) if studio.foundation.small else studio.drawn(jobs)


def _on_card(commissions: Sequence[Commission], jobs: Sequence[Job], load: Load, ready: Barrier) -> Drawn:
    """What falls to one of the cards; no card draws before all have loaded, which changes torch's default type for a while."""
    if not jobs:
        return
    try:
        foundation = load()
    except BaseException:
        ready.abort()
        raise
    try:
        ready.wait()
        yield from Studio(foundation, commissions).drawn(jobs)
    except BrokenBarrierError:  # another card's error is told
        return
    finally:
        foundation.rest()


class Studio:
    """Draws batches of several orders; a job is (number of the order, number of its batch's first image)."""

    def __init__(self, foundation: Foundation, commissions: Sequence[Commission]) -> None:
        self.foundation, self.commissions = foundation, commissions
        self.asked = [each.batches(foundation) for each in commissions]

    def draw(self, job: Job) -> Picture:
        """A batch; the adapter is attached for it, which in a small net takes no time."""
        return next(picture for _, picture in self.drawn([job]))

    def drawn(self, jobs: Sequence[Job]) -> Drawn:
        """Batches, by order: its adapter is attached once."""
        for number, own in groupby(jobs, lambda job: job[0]):
            adapter, settings = self.commissions[number].adapter, self.commissions[number].settings
            with nullcontext() if adapter is None else drawing(self.foundation.net, settings, adapter):
                yield from ((job, self.asked[number].draw(job[1]).numpy()) for job in own)

    def kept(self, job: Job) -> Tensor | None:
        """A batch that was drawn before; None where it was not."""
        try:
            return self._through(job, _missing)
        except LookupError:
            return None

    def keep(self, job: Job, batch: Tensor) -> Tensor:
        """A batch that was drawn now, through what may keep it."""
        return self._through(job, lambda: batch)

    def _through(self, job: Job, draw: Callable[[], Tensor]) -> Tensor:
        number, start = job
        return self.asked[number].cut(start, self.commissions[number].through(start, draw))

    def pool(self, number: int, parts: Sequence[Tensor]) -> Pool:
        """An order's images with their provenance."""
        order, images = self.commissions[number].order, self.asked[number].joined(parts)
        labels, seeds = torch.tensor(order.labels(), dtype=torch.int64), torch.tensor(order.seeds(), dtype=torch.int64)
        return Pool(images, labels, torch.full_like(labels, order.client), seeds, tuple(order.prompts))


def _missing() -> Tensor:
    raise LookupError("it was not drawn before")

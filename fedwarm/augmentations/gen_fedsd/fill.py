"""Fill a client's gaps: how many images of which classes, taken from the provider, joined to the client's own, with a report."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedwarm.augmentations.gen_fedsd.amounts import GenFedSD
from fedwarm.augmentations.gen_fedsd.checks import check_private
from fedwarm.augmentations.gen_fedsd.drawn import DRAWS, Drawn
from fedwarm.augmentations.gen_fedsd.providers import Provider, provider_of, provider_type
from fedwarm.augmentations.gen_fedsd.wanted import check_size, chosen_of, wanted_of
from fedwarm.core.progress import Tick, current, listening, tick
from fedwarm.data import Shard, partition_table
from fedwarm.data.settings import Data
from fedwarm.data.shards import open_table
from fedwarm.settings.config import Config


@dataclass(frozen=True)
class Report:
    """What filling did.

    Attributes:
        real, synthetic: images of each class.
        seconds: that this call took.
        drawn_seconds: that drawing these images took, whenever that was.
        made, reused: images drawn now, and found on the shelf.
        repeated: images that the client holds more than once.
        redrawn: draws that were thrown away for a better one.
        below_judge: images that were blank or refused by the judge to the last; they stay, or are left out by setting.
        bytes: of the images.
    """

    real: list[int]
    synthetic: list[int]
    seconds: float = 0.0
    drawn_seconds: float = 0.0
    made: int = 0
    reused: int = 0
    repeated: int = 0
    redrawn: int = 0
    below_judge: int = 0
    bytes: int = 0

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "seconds": round(self.seconds, 3), "drawn_seconds": round(self.drawn_seconds, 3)}


@dataclass(frozen=True, eq=False)
class Filled:
    """Synthetic images of a client, by class and index.

    Attributes:
        images: uint8 (m, 3, S, S).
        labels: int64 (m,), the classes that were asked for.
        seeds: int64 (m,), of their noise; 0 where nothing was drawn.
        report: what it took.
    """

    images: Tensor
    labels: Tensor
    seeds: Tensor
    report: Report


def fill(config: Config, shard: Shard, partition: int, root: Path, announced: int = 0) -> Filled:
    """The synthetic images of a client; those that its shelf lacks are drawn and kept there.

    Args:
        config: the run's settings.
        shard: the client's own images.
        partition: its number.
        root: holds the states of all runs on this machine, as of `fedwarm.core.store.Store`.
        announced: the server's target, of rule `global`.

    Raises:
        SettingError: the images cannot be had, e.g. as a pool is too small, or not be kept; nothing was drawn.
    """
    check_private(config)
    begun, provider, real = time.monotonic(), provider_of(config, shard.classes, root, shard), shard.counts()
    if provider is None:
        return _filled(config, real, {}, 0, begun)
    wanted = wanted_of(config, real, provider, announced)
    check_size(config, partition, sum(wanted))
    chosen = [chosen_of(config, provider, partition, label, count, shard.classes) for label, count in enumerate(wanted)]
    taken: dict[int, Drawn] = {}
    made, classes = 0, len(wanted)
    with _progress(sum(wanted)) as progress, _resting(provider):
        for step in range(classes):
            label = (partition + step) % classes  # so that workers who share a pool do not wait for each other
            taken[label], new = provider.take(partition, label, chosen[label])
            made += new
            progress.done(len(chosen[label]))
    filled = _filled(config, real, taken, made, begun)
    provider.refuse_own(filled.images, shard, partition)
    if made:
        provider.make_room()
    return filled


def found(config: Config, partition: int, partitions: int, root: Path, announced: int = 0) -> Filled | None:
    """What a client's synthetic images are, as far as they lie on this machine; nothing is drawn.

    None where there are none, or the provider makes them of the client's own images.
    """
    names = open_table(config.of(Data)).label.names
    provider = provider_of(config, names, root)
    if provider is None:
        return None
    real = partition_table(config.of(Data), config.run.seed, partitions)[partition]
    wanted = wanted_of(config, real, provider, announced, measure=False)
    taken: dict[int, Drawn] = {}
    for label, count in enumerate(wanted):
        chosen = chosen_of(config, provider, partition, label, count, names)
        taken[label] = provider.find(partition, label, chosen)
    filled = _filled(config, real, taken, 0, time.monotonic())
    return filled if len(filled.labels) else None


def _filled(config: Config, real: Sequence[int], taken: dict[int, Drawn], made: int, begun: float) -> Filled:
    """Everything in the order of classes, whatever the order it was made in."""
    size, settings = config.of(Data).image_size, config.of(GenFedSD)
    least = settings.judge_least if settings.judge else 0.0
    whole = all_drawn = Drawn.join([Drawn.none(size), *(taken[label] for label in sorted(taken))])  # what it cost, kept or not
    asked, repeated = len(all_drawn), sum(len(drawn) - len(drawn.indices.unique()) for drawn in taken.values())
    refused = sum(int((drawn.scores < least).sum()) for drawn in taken.values())
    if settings.refused == "drop":
        taken = {label: drawn.rows(torch.where(drawn.scores >= least)[0].tolist()) for label, drawn in taken.items()}
        whole = Drawn.join([Drawn.none(size), *(taken[label] for label in sorted(taken))])
    labels = torch.cat([torch.empty(0, dtype=torch.int64), *(torch.full_like(taken[c].indices, c) for c in sorted(taken))])
    report = Report(
        real=list(real),
        synthetic=[len(taken.get(label, ())) for label in range(len(real))],
        seconds=time.monotonic() - begun,
        drawn_seconds=float(all_drawn.seconds.sum()),
        made=made,
        reused=max(0, asked - made - repeated) if provider_type(config).draws else 0,
        repeated=repeated,
        redrawn=int((all_drawn.tries - 1).sum()),
        below_judge=refused,
        bytes=whole.images.numel(),
    )
    return Filled(whole.images, labels, whole.seeds, report)


class _Progress:
    """Turns the sampler's signs of life, which begin anew with every batch of a class, into one count over all classes."""

    def __init__(self, of: int) -> None:
        self.of, self.base, self.finished, self.outer = of, 0, 0, current()

    def __call__(self, event: Tick) -> None:
        if self.outer is not None and event.stage == DRAWS:
            self.outer(Tick(event.who, DRAWS, min(self.base + event.step, self.of), self.of))
            self.base += event.step if event.step == event.of else 0

    def done(self, count: int) -> None:
        """A class is there; what was not drawn for it was found."""
        self.finished += count
        self.base = self.finished
        with listening(self.outer):
            tick(DRAWS, self.base, self.of)


@contextmanager
def _resting(provider: Provider) -> Iterator[None]:
    try:
        yield
    finally:
        provider.rest()


@contextmanager
def _progress(of: int) -> Iterator[_Progress]:
    progress = _Progress(of)
    with listening(progress if progress.outer is not None else None):
        yield progress

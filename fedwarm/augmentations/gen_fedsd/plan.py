"""What synthesis will take, before it begins: images of each class and client, what is there already, bytes and seconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedwarm.augmentations.gen_fedsd.amounts import MB, GenFedSD, gaps, global_target, target
from fedwarm.augmentations.gen_fedsd.checks import shelf_root
from fedwarm.augmentations.gen_fedsd.drawn import POOL, Owner
from fedwarm.augmentations.gen_fedsd.providers import Provider, provider_of, provider_type
from fedwarm.augmentations.gen_fedsd.wanted import chosen_of, wanted_of
from fedwarm.core.text import table
from fedwarm.data import partition_table
from fedwarm.data.classes import imbalance
from fedwarm.data.settings import Data
from fedwarm.data.shards import open_table
from fedwarm.diffusion.settings import Diffusion
from fedwarm.settings.config import Config

MOST_COLUMNS = 12


@dataclass(frozen=True)
class Plan:
    """What one client will do; lists are by class.

    Attributes:
        real: its images.
        gaps: what it lacks of the rule's target.
        synthetic: what it gets, within its budgets.
        new: what must be drawn for it; an image of a pool counts for the first client that wants it.
        bytes: of its synthetic images.
        seconds: that drawing the new ones takes by the measured speed, one client after the other.
    """

    partition: int
    real: list[int]
    gaps: list[int]
    synthetic: list[int]
    new: list[int]
    bytes: int
    seconds: float

    @property
    def before(self) -> float:
        """Total-variation distance of its label law from the uniform one."""
        return imbalance(self.real)

    @property
    def after(self) -> float:
        """The same with its synthetic images."""
        return imbalance([a + b for a, b in zip(self.real, self.synthetic, strict=True)])


@dataclass(frozen=True)
class Plans:
    """The plans of some clients of a run.

    Attributes:
        classes: names.
        clients: one plan each.
        seconds_per_image: as measured; 0 where nothing is drawn.
        different: images that all of them get together, each counted once.
        pool: images of a class in the pool; 0: none.
    """

    classes: tuple[str, ...]
    clients: list[Plan]
    seconds_per_image: float
    different: int
    pool: int

    @property
    def images(self) -> int:
        """Synthetic images of all clients."""
        return sum(sum(plan.synthetic) for plan in self.clients)

    @property
    def new(self) -> int:
        """Images that must be drawn."""
        return sum(sum(plan.new) for plan in self.clients)

    @property
    def bytes(self) -> int:
        """Of the clients' synthetic images."""
        return sum(plan.bytes for plan in self.clients)

    @property
    def seconds(self) -> float:
        """Of drawing, all clients together."""
        return sum(plan.seconds for plan in self.clients)

    @property
    def repeats(self) -> float:
        """Share of the images that another client has too, or the same client twice."""
        return 1 - self.different / self.images if self.images else 0.0

    def text(self, width: int | None = None) -> str:
        """A table with totals, for a terminal of that many columns; None: however wide it is."""
        shown = self.classes if len(self.classes) <= MOST_COLUMNS else ()
        heads = ["client", "real", *(f"+{name}" for name in shown), "synthetic", "new", "MB", "seconds", "unlike"]
        rows = []
        for plan in self.clients:
            added = plan.synthetic if shown else []
            counts = _numbers([sum(plan.real), *added, sum(plan.synthetic), sum(plan.new)])
            rows.append([str(plan.partition), *counts, *_costs(plan), f"{plan.before:.2f} > {plan.after:.2f}"])
        each = [sum(plan.synthetic[c] for plan in self.clients) for c in range(len(shown))]
        total = [sum(sum(plan.real) for plan in self.clients), *each, self.images, self.new]
        rows.append(["all", *_numbers(total), *_costs(self), ""])
        return "\n".join([table(heads, rows, width, right=True), *self._remarks()])

    def _remarks(self) -> list[str]:
        out = ["unlike: total-variation distance of a client's labels from uniform, before and after"]
        if self.seconds_per_image:
            out.append(f"{self.seconds_per_image:.3g} s an image, measured on this machine")
        if self.pool:
            out.append(f"a pool of {self.pool:,} a class: {self.different:,} different images, {self.repeats:.0%} are repeats")
        return out

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        clients = [
            {
                "partition": plan.partition, "real": plan.real, "gaps": plan.gaps, "synthetic": plan.synthetic, "new": plan.new,
                "bytes": plan.bytes, "seconds": round(plan.seconds, 3),
                "before": round(plan.before, 6), "after": round(plan.after, 6),
            }
            for plan in self.clients
        ]  # fmt: skip
        totals = {"images": self.images, "new": self.new, "bytes": self.bytes, "seconds": round(self.seconds, 3)}
        pool = {"size": self.pool, "different": self.different, "repeats": round(self.repeats, 6)}
        speed = self.seconds_per_image
        return {"classes": list(self.classes), "clients": clients, **totals, "pool": pool, "seconds_per_image": speed}


def plan_of(
    config: Config,
    partitions: int,
    root: Path,
    clients: Sequence[int] | None = None,
    *,
    announced: int | None = None,
    measure: bool = True,
) -> Plans:
    """The plans of a run's clients on this machine; a few images are drawn, and thrown away, to learn the speed.

    Args:
        config: the run's settings.
        partitions: clients of the run.
        root: holds the states of all runs on this machine.
        clients: which of them; None: all.
        announced: the target of rule `global`; None: from the exact counts, whatever noise their histograms would get.
        measure: learn the speed where it is not known; else the plan has no seconds then.

    Raises:
        SettingError: the images cannot be had.
    """
    settings, names = config.of(GenFedSD), open_table(config.of(Data)).label.names
    counts = partition_table(config.of(Data), config.run.seed, partitions)
    provider, told = provider_of(config, names, root), global_target(counts) if announced is None else announced
    ledger = _Claims(provider)
    chosen = range(partitions) if clients is None else clients
    drafts = []
    for k in chosen:
        wanted = wanted_of(config, counts[k], provider, told, measure=measure)
        taken = [chosen_of(config, provider, k, label, count, names) for label, count in enumerate(wanted)]
        drafts.append((wanted, [ledger.claim(k, label, indices) for label, indices in enumerate(taken)]))
    drawn = any(sum(new) for _, new in drafts)
    speed = provider.speed(measure) if provider is not None and drawn else 0.0
    size = 3 * config.of(Data).image_size ** 2
    plans = []
    for k, (wanted, new) in zip(chosen, drafts, strict=True):
        missing = gaps(counts[k], target(settings, counts[k], told))
        cost = sum(map(provider.cost, new)) if provider is not None else 0
        plans.append(Plan(k, counts[k], missing, wanted, new, sum(wanted) * size, cost * speed))
    return Plans(tuple(names), plans, speed, ledger.different, provider.pool if provider is not None else 0)


class _Claims:
    """Which images some client of the plan wants, and which lie on the shelf."""

    def __init__(self, provider: Provider | None) -> None:
        self.provider, self.different = provider, 0
        self._wanted: dict[tuple[Owner, int], set[int]] = {}
        self._here: dict[tuple[Owner, int], set[int]] = {}

    def claim(self, client: int, label: int, indices: Sequence[int]) -> int:
        """How many of the images must be drawn, that nobody in the plan wanted before."""
        provider = self.provider
        own = provider is None or provider.stock(label) is None
        place: tuple[Owner, int] = (client if own else POOL, label)
        fresh = set(indices) - self._wanted.setdefault(place, set())
        self._wanted[place] |= fresh
        self.different += len(fresh)
        if provider is None or not provider.draws:
            return 0
        if place not in self._here:
            self._here[place] = provider.have(*place)
        return len(fresh - self._here[place])


def _numbers(values: Sequence[int]) -> list[str]:
    return [f"{value:,}" for value in values]


def _costs(plan: Plan | Plans) -> list[str]:
    return [f"{plan.bytes / MB:,.1f}", f"{plan.seconds:,.0f}"]


def outlook(config: Config, clients: int) -> Iterator[str]:
    """A line about what a run's clients will have drawn, without drawing anything for it; none where they draw nothing.

    So, too, for a model of the Hub, which this process would have to load: clients do, when it is their turn.
    """
    from fedwarm.diffusion.foundation import locate

    if not provider_type(config).draws or config.of(Data).own:
        return
    if not Path(locate(config.of(Diffusion).foundation)).is_dir():
        return
    plan = plan_of(config, clients, shelf_root(config), measure=False)
    took = f", about {plan.seconds:,.0f} s of one machine" if plan.seconds else ""
    size = f"{plan.images:,} images ({plan.bytes / MB:,.1f} MB)"
    yield f"{clients} clients get {size}, {plan.new:,} of them to be drawn{took}; `fedwarm augment` shows the plan"

"""Another data set with planted groups: of each group the pictures are turned, or the labels exchanged, in a way of its own.

Every class is dealt to the groups in equal parts at random, and a group is a `domain`: with the partition of that name a client's
images are of one group, and whether a method finds out who belongs together can be checked. Rotated pictures need not contradict
each other, exchanged labels do: of them no single model can know more than one group's.

Ghosh, Chung, Yin, Ramchandran, "An Efficient Framework for Clustered Federated Learning", NeurIPS 2020, arXiv 2006.04088, section
6 (Rotated MNIST); Sattler, Müller, Samek, "Clustered Federated Learning", arXiv 1910.01991, section V (exchanged labels).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fedwarm.core.seeds import numpy_generator
from fedwarm.data.opening import read_table
from fedwarm.data.settings import Data
from fedwarm.data.tables import Column, Rows, Table
from fedwarm.settings.fields import Group, SettingError, setting
from fedwarm.settings.registry import component

SEED, DOMAIN = 2107, "domain"
QUARTERS = 4


@dataclass(frozen=True)
class Planted(Group, prefix="planted"):
    """Settings of the data set `planted`."""

    base: str = setting(
        "digits", "data set whose clients are divided into groups: digits, a folder, or a name on the Hub", path=True
    )
    change: str = setting(
        "rotations", "difference between groups; rotations: pictures are turned; labels: labels stand for other classes",
        choices=("rotations", "labels"),
    )  # fmt: skip
    groups: int = setting(4, "number of groups; of rotations 2 (0 and 180 degrees) or 4 (0, 90, 180, 270)", low=2, high=64)


@component(settings=Planted)
def planted(data: Data) -> Table:
    """Another data set (planted.base) in groups with turned pictures or exchanged labels, each a domain of its own."""
    own = data.of(Planted)
    if own.base == data.name:
        raise SettingError(f"planted.base = {own.base!r} cannot be divided into groups again; name another data set")
    if own.change == "rotations" and QUARTERS % own.groups:
        raise SettingError(
            f"planted.groups = {own.groups} cannot be told apart by quarter turns; take 2 or 4, or planted.change = 'labels'"
        )
    base = read_table(replace(data, name=own.base))
    group = dealt(base.label, own.groups)
    return _turned(base, group, own.groups) if own.change == "rotations" else _exchanged(base, group, own.groups)


def dealt(label: Column, groups: int) -> Rows:
    """The group of each row (n,): every class is shuffled and dealt in turn, the turn going on from class to class."""
    shuffled = numpy_generator(SEED, "groups").permutation(len(label.codes))
    by_class = shuffled[np.argsort(label.codes[shuffled], kind="stable")]
    group = np.empty(len(label.codes), dtype=np.int64)
    group[by_class] = np.arange(len(group)) % groups
    return group


def exchanges(classes: int, groups: int) -> Rows:
    """What a class is called in each group (groups, classes): in the first as it is, then in random orders."""
    draws = [numpy_generator(SEED, "labels", g).permutation(classes) for g in range(1, groups)]
    return np.stack([np.arange(classes), *draws])


def _turned(base: Table, group: Rows, groups: int) -> Table:
    step = QUARTERS // groups

    def turned(found: Iterable[Tensor], rows: Rows) -> list[Tensor]:
        turns = (torch.from_numpy(group[rows]) * step).tolist()
        return [torch.rot90(image, turn, (1, 2)) for image, turn in zip(found, turns, strict=True)]

    whole = base.originals
    table = _table(
        base,
        base.label,
        group,
        tuple(f"{90 * step * g} degrees" for g in range(groups)),
        lambda rows: torch.stack(turned(base.images(rows), rows)),
    )
    return table if whole is None else replace(table, originals=lambda rows, side: turned(whole(rows, side), rows))


def _exchanged(base: Table, group: Rows, groups: int) -> Table:
    label = Column(exchanges(len(base.label.names), groups)[group, base.label.codes], base.label.names)
    table = _table(base, label, group, tuple(f"order {g}" for g in range(groups)), base.images)
    return replace(table, originals=base.originals)


def _table(base: Table, label: Column, group: Rows, names: tuple[str, ...], images: Callable[[Rows], Tensor]) -> Table:
    columns = (*(name for name in base.columns if name != DOMAIN), DOMAIN)

    def column(name: str) -> Column:
        return Column(group, names) if name == DOMAIN else base.column(name)

    return Table(f"{base.name} in {len(names)} groups", label, columns, column, images, base.remarks)


COMPONENT = planted

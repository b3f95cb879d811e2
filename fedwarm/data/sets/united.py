"""Several data sets of pictures as one federation: each is a `domain`, and the classes that all of them have are its classes.

`united.of` names them, e.g. `mnist=/data/mnist, femnist=/data/femnist#character, scans=digits`: a name for the domain, then what
`data.name` takes, and after # the column of labels where it is not found. Classes are matched by name without regard to case;
number words stand for their digits, so that `seven` is `7`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fedwarm.core.seeds import numpy_generator
from fedwarm.data.opening import read_table
from fedwarm.data.settings import Data
from fedwarm.data.tables import Column, Rows, Table, part_of
from fedwarm.settings.fields import Group, SettingError, near, setting
from fedwarm.settings.registry import component

SEED, NAME = 2503, "united"
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class United(Group, prefix=NAME):
    """Settings of the data set `united`."""

    of: str = setting("digits", "data sets with commas between: DOMAIN=NAME or DOMAIN=NAME#LABEL_COLUMN, NAME as in data.name")
    examples: int = setting(0, "most examples of one source, a seeded subset with as many of each class; 0: all", low=0)


@dataclass(frozen=True)
class Source:
    """One of them: its name as a domain, its data set, and its column of labels (empty: found)."""

    domain: str
    name: str
    label: str


def parsed(text: str) -> list[Source]:
    """The sources that `united.of` names.

    Raises:
        SettingError: it names none, or two of one name.
    """
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        domain, equals, name = part.partition("=")
        name, _, label = (name if equals else domain).strip().partition("#")
        found.append(Source(domain.partition("#")[0].strip(), name, label))
    names = [source.domain for source in found]
    if not found or not all(source.domain and source.name for source in found) or len({*names}) < len(names):
        raise SettingError(f"united.of = {text!r} must name each source once; write e.g. 'mnist=/data/mnist, scans=digits'")
    return found


def plain(name: str) -> str:
    """A class's name as it is matched."""
    low = name.replace("_", " ").strip().lower()
    return str(WORDS.index(low)) if low in WORDS else low


def table_of(data: Data) -> Table:
    """All sources together."""
    own = data.of(United)
    sources = parsed(own.of)
    tables = [_read(source, data) for source in sources]
    names = _common(sources, tables)
    parts = [_kept(table, names, own.examples, i) for i, table in enumerate(tables)]
    label = np.concatenate([codes for _, codes in parts])
    domain = np.repeat(np.arange(len(parts)), [len(codes) for _, codes in parts])
    columns = {"label": Column(label, tuple(names)), "domain": Column(domain, tuple(source.domain for source in sources))}

    def column(wanted: str) -> Column:
        if wanted not in columns:
            raise SettingError(
                f"data.name = {NAME!r} has no column {wanted!r}{near(wanted, list(columns))}; it has label, domain"
            )
        return columns[wanted]

    first = np.cumsum([0, *(len(codes) for _, codes in parts)])

    def images(rows: Rows) -> Tensor:
        found = torch.empty(len(rows), 3, data.image_size, data.image_size, dtype=torch.uint8)
        for i, (table, _) in enumerate(parts):
            mine = np.flatnonzero(domain[rows] == i)
            if len(mine):
                found[torch.from_numpy(mine)] = table.images(rows[mine] - first[i])
        return found

    def originals(rows: Rows, side: int) -> list[Tensor]:
        found = dict[int, Tensor]()
        for i, (table, _) in enumerate(parts):
            mine = np.flatnonzero(domain[rows] == i)
            own = rows[mine] - first[i]
            whole = table.originals(own, side) if table.originals is not None else [*table.images(own)]
            found |= dict(zip(mine.tolist(), whole, strict=True))
        return [found[k] for k in range(len(rows))]

    some = any(table.originals is not None for table, _ in parts)
    remarks, whole = lambda: _remarks(parts), originals if some else None
    return Table(NAME, columns["label"], ("image", *columns), column, images, remarks, originals=whole)


def _read(source: Source, data: Data) -> Table:
    if source.name == NAME:
        raise SettingError(f"united.of names {NAME!r} itself; name the data sets that are to be its domains")
    try:
        table = read_table(replace(data, name=source.name, label_column=source.label, own_settings=()))
    except SettingError as error:
        raise SettingError(f"united.of, {source.domain}: {error}") from error
    if not table.classed or not table.pictured:
        raise SettingError(f"united.of, {source.domain}: {table.name} has no pictures with classes; name data sets that have")
    return table


def _common(sources: list[Source], tables: list[Table]) -> list[str]:
    """The classes that all sources have, in the first one's order."""
    known = [{plain(name) for name in table.label.names} for table in tables]
    names = [plain(name) for name in tables[0].label.names]
    found = [name for name in dict.fromkeys(names) if all(name in each for each in known)]
    if len(found) < 2:
        told = "; ".join(f"{s.domain} has {', '.join(t.label.names[:12])}" for s, t in zip(sources, tables, strict=True))
        raise SettingError(f"the sources have {len(found)} classes in common, and two are needed: {told}")
    return found


def _kept(table: Table, names: list[str], most: int, number: int) -> tuple[Table, Rows]:
    """The rows of a source that have one of the classes, at most so many, and their codes in the common list."""
    codes = {name: code for code, name in enumerate(names)}
    of_name = np.array([codes.get(plain(name), -1) for name in table.label.names])
    label = of_name[table.label.codes]
    rows = np.flatnonzero(label >= 0)
    if 0 < most < len(rows):
        order = numpy_generator(SEED, NAME, number).permutation(rows)
        rank = np.empty(len(table), dtype=np.int64)
        for code in range(len(names)):
            mine = order[label[order] == code]
            rank[mine] = np.arange(len(mine))
        rows = np.sort(order[np.argsort(rank[order], kind="stable")][:most])
    return part_of(table, rows, table.name), label[rows]


def _remarks(parts: list[tuple[Table, Rows]]) -> list[str]:
    return [remark for table, _ in parts for remark in table.remarks()]


@component(settings=United)
def united(data: Data) -> Table:
    """Several data sets (united.of) as one, each a domain of its own, with the classes that all of them have."""
    return table_of(data)


COMPONENT = united

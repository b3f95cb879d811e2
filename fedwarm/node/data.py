"""Whether a site's folder of pictures, tables or texts is one that a client can train on, read as a client reads it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fedwarm.data.broken import collecting
from fedwarm.data.checks import constancy, remarks
from fedwarm.data.hub import IMAGE_COLUMNS, found, read
from fedwarm.data.own import Holding
from fedwarm.data.pictures import ALPHA, opened
from fedwarm.data.settings import Data
from fedwarm.data.shards import Shard, load_shard, open_table
from fedwarm.data.tables import Table
from fedwarm.node.finding import Finding, fault, ok, warning
from fedwarm.settings.fields import SettingError

TOPIC = "data"
NAMED, SAMPLE = 12, 256


def look_at_data(data: Data) -> Iterator[Finding]:
    """What a folder holds, and what is odd about it.

    Args:
        data: the settings of a run with it, `name` being the folder.
    """
    if not Path(data.name).is_dir():
        yield fault(TOPIC, f"{data.name} is no folder here; in a container, see that it is mounted")
        return
    try:
        table = open_table(data)
        with collecting():
            shard = load_shard(data, 0, 0, 1)
        if data.classes:
            Holding(data, 0, 0, 1, own=True).shard()  # which refuses a class that the run does not have
    except SettingError as error:
        yield fault(TOPIC, str(error))
        return
    if not table.pictured:
        yield from _looked(table, shard, data)
        return
    counts = np.bincount(table.label.codes, minlength=len(table.label.names))
    yield ok(TOPIC, f"{len(table):,} pictures of {len(counts)} classes: {_listed(table.label.names, counts)}")
    if few := [name for name, count in zip(table.label.names, counts, strict=True) if count < 2]:
        named = ", ".join(map(repr, few[:NAMED])) + (f" and {len(few) - NAMED} more" if len(few) > NAMED else "")
        yield warning(TOPIC, f"fewer than 2 pictures of {named}: one is trained or tested on, never both")
    odd = constancy(shard)
    if odd:
        yield warning(TOPIC, f"{odd}; see whether these are the right ones, and data.background where they are transparent")
    for text in remarks(data, shard):
        if text != odd:
            yield ok(TOPIC, text)
    yield from _looks(data)


def _looked(table: Table, shard: Shard, data: Data) -> Iterator[Finding]:
    """What a table of numbers or a text holds."""
    form, n = table.form_at(data.image_size), len(table)
    columns = f" of {len(form.columns)} columns: {', '.join(form.columns[:NAMED])}" if form.columns else ""
    more = f" and {len(form.columns) - NAMED} more" if len(form.columns) > NAMED else ""
    what = f"texts of {form.shape[0]} characters" if form.vocabulary else f"rows{columns}{more}" if columns else str(form)
    yield ok(TOPIC, f"{n:,} {what}")
    if table.targets is None:
        counts = np.bincount(table.label.codes, minlength=len(table.label.names))
        yield ok(TOPIC, f"{len(counts)} classes: {_listed(table.label.names, counts)}")
    elif table.targets.is_floating_point():
        low, high = (table.targets.amin(0).flatten(), table.targets.amax(0).flatten())
        told = [f"{name} {a:g} to {b:g}" for name, a, b in zip(table.label.names, low.tolist(), high.tolist(), strict=True)]
        yield ok(TOPIC, f"to answer: {', '.join(told[:NAMED])}")
    for text in remarks(data, shard):
        yield (warning if text.startswith("the training") else ok)(TOPIC, text)


def _listed(names: tuple[str, ...], counts: np.ndarray[tuple[int], np.dtype[np.int64]]) -> str:
    told = [f"{name} {count:,}" for name, count in zip(names, counts, strict=True)]
    return ", ".join(told[:NAMED]) + (f" and {len(told) - NAMED} more" if len(told) > NAMED else "")


def _looks(data: Data) -> Iterator[Finding]:
    """Sizes and transparency of a sample of the pictures."""
    from datasets import Image

    rows = read(data.name)
    column = found("image", data.image_column, IMAGE_COLUMNS, rows, data.name)
    encoded = rows.select_columns([column]).cast_column(column, Image(decode=False))
    sides: list[int] = []
    clear, number = 0, min(len(encoded), SAMPLE)
    for value in encoded[np.arange(number) * len(encoded) // number][column]:
        try:
            image = opened(value or {"bytes": None, "path": None}).image
        except Exception:  # broken ones, which the settings leave out
            continue
        sides += image.size
        clear += image.mode in ALPHA or "transparency" in image.info
    yield ok(TOPIC, f"sides of {min(sides)} to {max(sides)} pixels, brought to {data.image_size} x {data.image_size}")
    if clear:
        many = f"{clear} of {number} pictures looked at have transparency"
        yield ok(TOPIC, f"{many}; they are laid on data.background = {data.background!r}")

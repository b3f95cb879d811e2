"""What is looked at before clients start: every picture that they will hold, and whether a client's pictures show anything."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from fedwarm.data.broken import collecting
from fedwarm.data.sets import data_set
from fedwarm.data.settings import Data
from fedwarm.data.shards import Shard, all_tests, load_shard, open_table, table_tested
from fedwarm.data.testing import CENTRAL

PATIENCE_SECONDS = 3.0
NAMED, FIRST, AT_ONCE = 5, 16, 512


def check_pictures(data: Data, seed: int, partitions: int, say: Callable[[str], None] = print) -> list[str]:
    """Decode what will be trained and tested on; what is odd about it. What is decoded is kept as `load_shard` keeps it.

    Args:
        data, seed, partitions: of the run.
        say: is told how long it takes, where that is long.

    Raises:
        SettingError: pictures that cannot be read, all of them in one line.
    """
    begun, told, constant = time.monotonic(), False, {}
    with collecting():
        for client in range(partitions):
            if found := constancy(load_shard(data, seed, client, partitions)):
                constant[client] = found
            seconds = time.monotonic() - begun
            if not told and seconds > PATIENCE_SECONDS and client + 1 < partitions:
                told, left = True, seconds / (client + 1) * (partitions - client - 1)
                say(f"looking at every picture of {open_table(data).name}, {left:.0f} s more")
        if data.test == CENTRAL:
            table, rows = all_tests(data, seed, partitions)
            for part in np.split(rows, range(AT_ONCE, len(rows), AT_ONCE)):
                table.images(part)
    ground = (
        f"; transparent ones are laid on data.background = {data.background!r}"
        if data_set(data.name) is None and open_table(data).pictured
        else ""
    )
    return [
        f"{_named(clients, partitions)}: {text}{ground}"
        for text in dict.fromkeys(constant.values())
        if (clients := [client for client, found in constant.items() if found == text])
    ]


def remarks(data: Data, shard: Shard) -> list[str]:
    """What a client says of its data beside their size: what was left out, which value is white, that nothing can be seen."""
    found = constancy(shard)
    train, test = open_table(data), table_tested(data)
    split = [] if test is train else [f"test split: {text}" for text in test.remarks()]
    return [*train.remarks(), *split, *([found] if found else [])]


def constancy(shard: Shard) -> str:
    """What is wrong with training pictures that show nothing; empty where they do."""
    images: Tensor = shard.train_images
    if not len(images):
        return ""
    if not shard.form.pictures:
        return "the training inputs are all the same" if len(images) > 1 and bool((images == images[:1]).all()) else ""
    for part in (images[:FIRST], images):  # the first few tell nearly always that all is well
        same, channels = len(images) > 1 and bool((part == images[:1]).all()), part.flatten(2)
        if not same and not torch.equal(channels.amin(2), channels.amax(2)):
            return ""
    return "the training pictures are all the same" if same else "each training picture is one plain colour"


def _named(clients: list[int], of: int) -> str:
    if len(clients) == of > 1:
        return f"every one of the {of} clients"
    more = f" and {len(clients) - NAMED} more" if len(clients) > NAMED else ""
    return f"client{'s' if len(clients) > 1 else ''} {', '.join(map(str, clients[:NAMED]))}{more} of {of}"

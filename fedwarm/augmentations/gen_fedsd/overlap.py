"""Images that are in two places: what `gen-fedsd.file` offers must not be what clients hold, or are tested on.

Images are compared pixel by pixel as a run sees them, at `data.image-size`, whatever file they lie in. Those of one colour are
alike in any data set and say nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

from fedwarm.augmentations.gen_fedsd.amounts import GenFedSD
from fedwarm.augmentations.gen_fedsd.real import PUBLIC, unheld
from fedwarm.data import Shard
from fedwarm.data.partitions import client_rows
from fedwarm.data.settings import Data
from fedwarm.data.shards import all_tests, open_table
from fedwarm.data.tables import Rows, Table
from fedwarm.data.testing import HELD_OUT
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError

AT_ONCE = 4096
REMEDY = "take another, leave those out, or take 'public' with data.public-share"


def refuse_held(config: Config, clients: int) -> None:
    """Refuse a `gen-fedsd.file` with images that clients of the run hold or are tested on, whatever it is called.

    Both data sets are decoded whole, as the run would.

    Raises:
        SettingError: it has some.
    """
    settings = config.of(GenFedSD)
    if settings.file == PUBLIC:
        return
    known = {mark for table, rows in _held(config, clients) for mark in _marks_of(table, rows)} - {b""}
    table, rows = unheld(settings.file, config.of(Data))
    found = [mark in known for mark in _marks_of(table, rows)]
    if any(found):
        raise SettingError(
            f"gen-fedsd.file = {settings.file!r} has {sum(found):,} images that clients hold or are tested on, the first in row "
            f"{int(rows[found.index(True)])}; {REMEDY}"
        )


def refuse_own(config: Config, images: Tensor, shard: Shard, partition: int) -> None:
    """Refuse images (k, 3, S, S) of `gen-fedsd.file` that this client holds or is tested on.

    Raises:
        SettingError: some are.
    """
    settings = config.of(GenFedSD)
    if settings.file == PUBLIC:
        return
    known = {mark for own in (shard.train_images, shard.test_images) for mark in marks(own)} - {b""}
    if count := sum(mark in known for mark in marks(images)):
        raise SettingError(
            f"gen-fedsd.file = {settings.file!r} has {count:,} images that client {partition} holds or is tested on; {REMEDY}"
        )


def marks(images: Tensor) -> Iterator[bytes]:
    """A digest of each image of uint8 (k, 3, S, S); empty for one of one colour."""
    flat = images.flatten(2)
    plain = (flat.amax(2) == flat.amin(2)).all(1) if len(images) else torch.empty(0, dtype=torch.bool)
    for image, one_colour in zip(images.numpy(), plain.tolist(), strict=True):
        yield b"" if one_colour else blake2b(image.tobytes(), digest_size=16).digest()


def _marks_of(table: Table, rows: Rows) -> Iterator[bytes]:
    for start in range(0, len(rows), AT_ONCE):
        yield from marks(table.images(rows[start : start + AT_ONCE]))


def _held(config: Config, clients: int) -> Iterator[tuple[Table, Rows]]:
    """All images of the clients, those left out by `data.max-examples` among them, and what is tested on."""
    data, seed = config.of(Data), config.run.seed
    table = open_table(data)
    yield table, np.concatenate(client_rows(table, data, seed, clients))
    if data.test != HELD_OUT:
        yield all_tests(data, seed, clients)

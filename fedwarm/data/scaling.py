"""Columns of numbers brought to mean 0 and standard deviation 1, and what is missing among them filled, as a model sees them.

By `data.standardise`: by the training examples of all who share the data set (`train`: of all clients in a simulation, of a
site's own where sites bring theirs), by known statistics in a CSV file (columns `column`, `mean`, `std`), or not at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedwarm.data.settings import Data
from fedwarm.data.tables import Rows, Table
from fedwarm.settings.fields import SettingError

AUTO, TRAIN, NONE = "auto", "train", "none"
MEAN = "mean"  # of data.missing-values
LEAST = 1e-12


@dataclass(frozen=True, eq=False)
class Scale:
    """What is subtracted, divided by, and filled in where a value is missing, float64 (k,); `learned`: from training examples."""

    mean: Tensor
    spread: Tensor
    fill: Tensor
    learned: bool

    def of(self, rows: Tensor) -> Tensor:
        """Rows (n, k) as a model sees them, float32."""
        found = rows.double()
        return ((torch.where(found.isnan(), self.fill, found) - self.mean) / self.spread).float()


def scale_of(table: Table, data: Data, rows: Callable[[], Rows]) -> Scale | None:
    """How a table's columns are scaled, by the rows (n,) that are trained on; None: they are taken as they are.

    Raises:
        SettingError: statistics are asked for of other data, or the file has none of a column.
    """
    if not table.features:
        if data.standardise not in (AUTO, NONE):
            said = f"data.standardise = {data.standardise!r} needs a table of columns"
            raise SettingError(f"{said}, which {table.name} is not; leave it out")
        return None
    if data.standardise not in (AUTO, TRAIN, NONE):
        return _told(data.standardise, table)
    known = table.images(rows()).double()
    mean = known.nanmean(0).nan_to_num()
    if data.standardise == NONE:
        return Scale(torch.zeros_like(mean), torch.ones_like(mean), mean, True) if data.missing_values == MEAN else None
    spread = torch.where(known.isnan(), mean, known).std(0, correction=0)
    return Scale(mean, torch.where(spread > LEAST, spread, 1.0), mean, True)


def scaled(table: Table, scale: Scale | None) -> Table:
    """The table as a model sees it."""
    if scale is None:
        return table

    return replace(table, images=lambda rows: scale.of(table.images(rows)))


def _told(path: str, table: Table) -> Scale:
    """Statistics out of a file."""
    import pandas

    try:
        frame = pandas.read_csv(Path(path).expanduser()).set_index("column")[["mean", "std"]].astype(float)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise SettingError(
            f"data.standardise = {path!r} cannot be read: {reason}; give train, none, or a CSV file (column, mean, std)"
        ) from error
    if missing := [name for name in table.features if name not in frame.index]:
        raise SettingError(
            f"data.standardise = {path!r} has no line of column {missing[0]!r}; add it, or take others in data.feature-columns"
        )
    values = frame.loc[list(table.features)].to_numpy()
    if not np.isfinite(values).all() or (values[:, 1] <= 0).any():
        raise SettingError(f"data.standardise = {path!r} holds a mean or std that is not a number, or a std below 0; correct it")
    mean, spread = (torch.from_numpy(np.ascontiguousarray(values[:, k])) for k in (0, 1))
    return Scale(mean, spread, mean, False)

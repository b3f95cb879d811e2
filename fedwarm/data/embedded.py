"""Tables that scikit-learn brings along, read from its files without importing it, with sites that are planted in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedwarm.core.seeds import numpy_generator
from fedwarm.data.given import DOMAIN, targets_of, tensor_table
from fedwarm.data.settings import Data
from fedwarm.data.tables import Column, Table
from fedwarm.settings.fields import SettingError

SITES, NOISE, SEED = 4, 0.7, 569
SITE = "site"


def scikit_file(name: str, what: str) -> Path:
    """Where scikit-learn keeps a file of its data.

    Raises:
        SettingError: it does not.
    """
    spec = find_spec("sklearn")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "datasets" / "data" / name
        if path.is_file():
            return path
    raise SettingError(
        f"{what} is read from scikit-learn, which is not installed whole; "
        "`pip install scikit-learn`, or give another data set's name or folder"
    )


def planted_sites(values: NDArray[np.float64]) -> Column:
    """A site for each row (n,): rows are sorted by a feature with noise, and cut into parts of equal size.

    So sites differ in what they see, as hospitals with unlike patients do, and overlap.
    """
    draws = numpy_generator(SEED, "planted-sites")
    blurred = values / values.std() + NOISE * draws.standard_normal(len(values))
    site = np.empty(len(values), dtype=np.int64)
    site[np.argsort(blurred, kind="stable")] = np.arange(len(values)) * SITES // len(values)
    return Column(site, tuple(f"site {k}" for k in range(SITES)))


def embedded_table(
    name: str,
    data: Data,
    inputs: NDArray[np.float64],
    features: Sequence[str],
    targets: Any,
    by: int,
    classes: Sequence[str] | None,
) -> Table:
    """An embedded table of numbers, its sites planted by feature number `by`."""
    label, answers = targets_of(targets, len(inputs), classes, data)
    sites = planted_sites(inputs[:, by])
    table = tensor_table(name, torch.from_numpy(inputs.astype(np.float32)), label, answers, {DOMAIN: sites, SITE: sites})
    return replace(table, form=replace(table.form_at(0), columns=tuple(features)))

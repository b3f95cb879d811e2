"""Data that a function of somebody's own gives, `data.name = module:attribute`: inputs, targets and columns, or a table.

The function is called with no argument, or with the data settings where it has a parameter. It gives one of

- (inputs, targets), or (inputs, targets, columns) with columns of ids by name, each of n values
- a mapping with `inputs` and `targets`; its other entries of n values are columns, and `classes` names the classes
- a `fedwarm.data.tables.Table`

Inputs are an array or tensor (n, ..): uint8 as it is, other whole numbers as int64, the rest as float32. Targets are whole
numbers from 0, texts or truth values for classes, floats (n,) or (n, k) for numbers and labels, whole numbers (n, T) for tokens.
The column `split` says of each row whether it is of `train` or of another split; by `domain` and `site` the partitions `domain`
and `natural` go. The function has to give the same in every process, as each client takes its own rows of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from inspect import Parameter, signature
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedwarm.core.inputs import Form
from fedwarm.data.settings import CLASSES, LABELS, NUMBERS, TOKENS, Data
from fedwarm.data.tables import ALL, Column, Table, coded, part_of
from fedwarm.settings.fields import SettingError, near
from fedwarm.settings.foreign import outcome

TRAIN, SPLIT, DOMAIN = "train", "split", "domain"
FORMS = "give (inputs, targets), or with a mapping of columns behind them"


def given(function: Any, data: Data, split: str = TRAIN) -> Table:
    """A split of what a function gives.

    Raises:
        SettingError: it fails, or gives something else; there is no such split.
    """
    found = outcome(f"data.name = {data.name!r}", lambda: function(*([data.reading] if _asks(function) else [])))
    table = found if isinstance(found, Table) else table_of(found, data)
    return _split(table, split)


def _asks(function: Any) -> bool:
    """Whether a function has to be given something."""
    places = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    return any(each.kind in places for each in signature(function).parameters.values())


def table_of(found: Any, data: Data) -> Table:
    """Inputs and targets as a table.

    Raises:
        SettingError: they are none.
    """
    name, columns = data.name, dict[str, Any]()
    if isinstance(found, Mapping) and {"inputs", "targets"} <= found.keys():
        columns = {str(key): value for key, value in found.items() if key not in ("inputs", "targets")}
        inputs, targets = found["inputs"], found["targets"]
    elif isinstance(found, tuple) and len(found) in (2, 3) and (len(found) == 2 or isinstance(found[2], Mapping)):
        inputs, targets, columns = found[0], found[1], dict(found[2]) if len(found) == 3 else {}
    else:
        raise SettingError(f"data.name = {name!r} gives {type(found).__name__}; {FORMS}")
    classes = columns.pop(CLASSES, None)
    seen = input_tensor(inputs, name)
    label, wanted = targets_of(targets, len(seen), classes, data)
    ids = {key: _ids(values, len(seen), key, name) for key, values in columns.items()} or {DOMAIN: one_domain(len(seen))}
    return tensor_table(name, seen, label, wanted, ids)


def one_domain(count: int) -> Column:
    """The column of examples of which nothing is known but that they belong together; it is dealt as any domain is, at random."""
    return Column(np.zeros(count, dtype=np.int64), (ALL,))


def tensor_table(
    name: str, inputs: Tensor, label: Column, targets: Tensor | None, ids: Mapping[str, Column], vocabulary: int = 0
) -> Table:
    """A table of what is in memory.

    Args:
        inputs: (n, *shape), float32, int64 or uint8.
        label, targets: see `Table`.
        ids: columns by name.
        vocabulary: of inputs in int64, how many tokens there are; 0: up to the largest that is there.
    """

    def column(wanted: str) -> Column:
        if wanted not in ids:
            raise SettingError(f"{name} has no column {wanted!r}{near(wanted, list(ids))}; it has {', '.join(ids) or 'none'}")
        return ids[wanted]

    whole = inputs.dtype == torch.int64 and inputs.numel() > 0 and int(inputs.min()) >= 0
    tokens = vocabulary or (max(int(inputs.max()) + 1, len(label.names) if targets is not None else 0) if whole else 0)
    return Table(name, label, tuple(ids), column, lambda rows: inputs[torch.from_numpy(rows)], form=Form.of(inputs, tokens),
                 targets=targets)  # fmt: skip


def input_tensor(values: Any, name: str) -> Tensor:
    """Inputs (n, ..) as uint8, int64 or float32.

    Raises:
        SettingError: they are no numbers, none at all, or not finite.
    """
    try:
        found = torch.as_tensor(values if isinstance(values, Tensor) else np.asarray(values))
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise SettingError(
            f"the inputs of {name} are not an array of numbers: {reason}; give numeric examples of one shape"
        ) from error
    if not found.ndim or not len(found):
        raise SettingError(f"the inputs of {name} hold no example; give an array (n, ..) of at least one")
    if found.is_floating_point() or found.dtype == torch.bool:
        found = found.to(torch.float32)
        refuse_unfinite(found, f"the inputs of {name}")
        return found
    if found.is_complex():
        raise SettingError(f"the inputs of {name} are complex numbers; give their parts as floats")
    return found if found.dtype == torch.uint8 else found.to(torch.int64)


def refuse_unfinite(found: Tensor, what: str) -> None:
    """Refuse NaN and infinity by the first place that holds one."""
    if not bool(torch.isfinite(found).all()):
        place = [int(i) for i in (~torch.isfinite(found)).nonzero()[0]]
        value = float(found[tuple(place)])
        raise SettingError(
            f"{what} hold {value} in row {place[0]}{f', place {place[1:]}' if place[1:] else ''}; correct that "
            "value or leave out the row"
        )


def targets_of(values: Any, count: int, classes: Sequence[Any] | None, data: Data) -> tuple[Column, Tensor | None]:
    """Labels and targets of a table, by what is given and what the task wants.

    Raises:
        SettingError: they are not one for each input, or nothing that targets can be.
    """
    name, array = data.name, _array(values, f"the targets of {data.name}")
    if len(array.shape) < 1 or len(array) != count:
        raise SettingError(f"{name} gives {count} inputs and targets of shape {array.shape}; give one target for each input")
    names = None if classes is None else tuple(map(str, classes))
    if data.targets == NUMBERS and array.dtype.kind in "iub":
        array = array.astype(np.float32)
    if data.targets == LABELS and array.dtype.kind in "iubf":
        array = array.astype(np.float32)[:, None] if array.ndim == 1 else array.astype(np.float32)
        if len(odd := np.argwhere(np.isfinite(array) & ~np.isin(array, (0, 1)))):
            value, row = array[tuple(odd[0])], int(odd[0][0])
            raise SettingError(f"the targets of {name} hold {value:g} in row {row}; labels are 0 or 1")
    if array.dtype.kind == "f":
        return answers(torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)), names, name)
    if array.ndim > 1 and array.dtype.kind in "iu":
        tokens = torch.from_numpy(array.astype(np.int64))
        return Column(np.zeros(count, dtype=np.int64), names or tuple(map(str, range(int(tokens.max()) + 1)))), tokens
    if array.ndim > 1:
        raise SettingError(f"{name} gives targets of shape {array.shape} that are not numbers; give one class for each input")
    return class_column(array, names, name), None


def answers(targets: Tensor, names: tuple[str, ...] | None, name: str) -> tuple[Column, Tensor]:
    """Numbers (n,) or (n, k) as targets, and what they are called.

    Raises:
        SettingError: one is not finite, or they have more axes.
    """
    if targets.ndim > 2:
        raise SettingError(f"the targets of {name} have shape {tuple(targets.shape)}; give (n,) or (n, k)")
    refuse_unfinite(targets, f"the targets of {name}")
    many = 1 if targets.ndim == 1 else targets.shape[1]
    called = names or (("target",) if many == 1 else tuple(f"target {i}" for i in range(many)))
    if len(called) != many:
        raise SettingError(f"{name} names {len(called)} targets and gives {many}; give one name for each target")
    return Column(np.zeros(len(targets), dtype=np.int64), called), targets


def class_column(array: NDArray[Any], names: tuple[str, ...] | None, name: str) -> Column:
    """Classes (n,) by their numbers or names."""
    if array.dtype.kind == "b":
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        values = _present(array, f"the targets of {name}")
        if names is None:
            return coded([str(value) for value in values])
        if strange := sorted({str(value) for value in values} - {*names}):
            close = near(strange[0], list(names))
            raise SettingError(f"{name} gives class {strange[0]!r}{close}, which its `classes` lack; add it there")
        return Column(np.array([names.index(str(value)) for value in values], dtype=np.int64), names)
    low, high = int(array.min()), int(array.max())
    if low < 0 or (names is not None and high >= len(names)):
        many = f", and {len(names)} are named" if names else ""
        raise SettingError(f"{name} gives classes {low} to {high}{many}; count them from 0")
    return Column(array.astype(np.int64), names or tuple(map(str, range(high + 1))))


def _array(values: Any, what: str) -> NDArray[Any]:
    try:
        found = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
        return np.asarray(values, dtype=object) if found.dtype.kind == "U" else found  # in which a missing one is no name
    except (TypeError, ValueError, RuntimeError) as error:
        raise SettingError(f"{what} are no array: {str(error).splitlines()[0]}; give values of one shape") from error


def _present(values: NDArray[Any], what: str) -> list[Any]:
    """Names, all of which are there."""
    found: list[Any] = values.tolist()
    missing = next((row for row, value in enumerate(found) if value is None or value != value), None)
    if missing is not None:
        raise SettingError(f"{what} hold none in row {missing}; give each example one, or leave the row out")
    return found


def _ids(values: Any, count: int, column: str, name: str) -> Column:
    found = _array(values, f"the values of column {column!r} of {name}")
    if found.shape != (count,):
        raise SettingError(f"column {column!r} of {name} has shape {found.shape}; give one value for each of {count} inputs")
    return coded(_present(found, f"the values of column {column!r} of {name}"))


def _split(table: Table, split: str) -> Table:
    """The rows of a split, by the column of that name; all of them are of `train` where there is none."""
    if SPLIT not in table.columns:
        if split != TRAIN:
            raise SettingError(f"{table.name} has no split {split!r}; set data.test = 'held-out', or give a column {SPLIT!r}")
        return table
    column = table.column(SPLIT)
    if split not in column.names:
        raise SettingError(f"{table.name} has no split {split!r}, only {', '.join(column.names)}; name one in data.test-split")
    rows = np.flatnonzero(column.codes == column.names.index(split))
    part = part_of(table, rows, table.name if split == TRAIN else f"split {split!r} of {table.name}")
    return replace(part, remarks=table.remarks)


def kind_of(table: Table) -> str:
    """What a table's targets are: classes, numbers (or labels, which look the same), or tokens."""
    if table.targets is None:
        return CLASSES
    return NUMBERS if table.targets.is_floating_point() else TOKENS

"""Data sets with a name of their own; any other `data.name` is a folder or a name on the Hub (`fedwarm.data.hub`).

A data set is a function (data settings) -> `Table`, called once in a process for the same settings. It sees the settings of
`Data.reading` (name, image size, columns, ..) and its own group by `data.of(Group)`; all others have their defaults, as who holds
what is for the partitions to say. Three facts may stand beside it (`registry.component`): `settings`, its group; `split`, a
function (data settings, name) -> `Table` of another split, e.g. `test`, without which it has none; and `labels`, a function (data
settings) -> label codes (n,), where they are known without making pictures: such a set is known again by them alone.
"""

from __future__ import annotations

from typing import Any

from fedwarm.settings.kinds import SETS


def data_set(name: str) -> Any:
    """The data set of that name, or None where the name is a folder's or the Hub's.

    Raises:
        SettingError: it cannot be loaded, or two have this name.
    """
    return SETS.load(name) if SETS.takes(name) else None

"""Nodes with data of their own, on this machine: one folder each below a common one, which also name them."""

from __future__ import annotations

from pathlib import Path

from fedwarm.core.names import checked_name
from fedwarm.federation.settings import SUPEREXEC, SUPERLINK
from fedwarm.node.kit import quoted
from fedwarm.settings.fields import SettingError


def site_folders(data: str) -> list[Path]:
    """The folders of `--data DIR`, by name: one for each node.

    Raises:
        SettingError: there are none, or one cannot name a node.
    """
    place = Path(data).expanduser().absolute()
    if not place.is_dir():
        raise SettingError(f"--data {data}: there is no such folder; give one that holds a folder of data for each node")
    found = sorted(each for each in place.iterdir() if each.is_dir() and not each.name.startswith((".", "__")))
    if not found:
        raise SettingError(f"--data {data} holds no folders; put the data of each node in a folder of its own there, by its name")
    for each in found:
        if each.name in (SUPERLINK, SUPEREXEC) or each.name.endswith(".pub"):
            raise SettingError(f"--data {data}: the folder {each.name!r} cannot name a node; give it another name")
        try:
            checked_name(each.name)
        except SettingError as error:
            raise SettingError(f"--data {data}: each folder there names a node, and {error}") from None
        quoted(str(each))
    return found

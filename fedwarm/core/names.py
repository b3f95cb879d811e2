"""Names of federations and nodes, and the addresses by which machines are called, as people write them."""

from __future__ import annotations

import re
from ipaddress import IPv6Address

from fedwarm.settings.fields import SettingError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
_HOST = re.compile(r"[A-Za-z0-9._-]+")
_PLACE = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/@\[\]]+):([0-9]{1,5})")


def checked_name(name: str) -> str:
    """A name of a federation or a node.

    Raises:
        SettingError: it can be none.
    """
    if not _NAME.fullmatch(name):
        raise SettingError(f"{name!r} is not a name for a federation; use 1 to 32 letters, digits, dots, hyphens and underscores")
    return name


def checked_host(said: str, option: str) -> str:
    """A machine's name, in the ASCII form of DNS, or its IP address without brackets.

    Raises:
        SettingError: it is none, as `option` was told it.
    """
    try:
        if ":" in said or said.startswith("["):
            return str(IPv6Address(said[1:-1] if said.startswith("[") and said.endswith("]") else said))
        name = said.encode("idna").decode()
    except ValueError:
        name = ""
    if not _HOST.fullmatch(name):
        raise SettingError(f"{option} {said!r} is neither a machine's name nor its IP address; give e.g. federation.example.org")
    return name


def place_of(said: str, option: str) -> tuple[str, int]:
    """Host and port of an address.

    Raises:
        SettingError: it is none, as `option` was told it.
    """
    found = _PLACE.fullmatch(said)
    if found is None or not 0 < int(found[2]) < 65536:
        raise SettingError(f"{option} {said!r} is not an address; it must be HOST:PORT, e.g. federation.example.org:8443")
    return checked_host(found[1], option), int(found[2])


def address_of(host: str, port: int) -> str:
    """HOST:PORT, with the brackets of an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

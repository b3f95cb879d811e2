"""The options of `fedwarm node run`: those of `flower-supernode`, and `--kit FOLDER`, which stands for most of them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from socket import socket

from fedwarm.flower.processes import free_ports
from fedwarm.node.kit import arguments
from fedwarm.settings.text import parse_overrides

HOST, PORT = "127.0.0.1", 9094


def started_with(said: Sequence[str]) -> list[str]:
    """The options of Flower's SuperNode; without `--kit` those that were said.

    Raises:
        SettingError: the kit cannot be read, its versions do not fit, or `--node-config` cannot be added to what it says.
    """
    parser = argparse.ArgumentParser(add_help=False)  # it takes abbreviations, as Flower's does
    parser.add_argument("--kit", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--node-config", action="append", default=[])
    own, others = parser.parse_known_args([*said])
    if own.kit is None:
        return [*said]
    place = [] if "--host" in others else ["--host", HOST]
    place += [] if "--port" in others else ["--port", str(_port())]
    return [*arguments(own.kit, own.data, parse_overrides(own.node_config)), *place, *others]


def _port() -> int:
    """At which the node's own processes find it: the usual port, or a free one where another node of this machine has that."""
    with socket() as tried:
        try:
            tried.bind((HOST, PORT))
        except OSError:
            return free_ports(1)[0]
    return PORT

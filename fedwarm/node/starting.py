"""The options of `fedwarm node run`: those of `flower-supernode`, and `--kit FOLDER`, which stands for most of them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from fedwarm.flower.processes import free_ports
from fedwarm.node.kit import arguments
from fedwarm.settings.text import parse_overrides

HOST = "127.0.0.1"


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
    place += [] if "--port" in others else ["--port", str(free_ports(1)[0])]
    return [*arguments(own.kit, own.data, parse_overrides(own.node_config)), *place, *others]

"""Data that stay where they are: the settings as they are at a node, and what does not go with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from fedwarm.data.classes import listed
from fedwarm.data.own import GIVE, readable
from fedwarm.data.settings import DATA_FOLDER as FOLDER
from fedwarm.data.settings import OWN, Data
from fedwarm.data.testing import CENTRAL
from fedwarm.relevance import Run
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError, Value


def at_home(config: Config, node: Mapping[str, Value]) -> Config:
    """The settings as they are at a node: those of its own data name its folder, from which nothing is dealt.

    Raises:
        SettingError: the run wants it, and settings do not go with it, or the node's configuration names no folder to be read.
    """
    if not config.of(Data).own:
        return config
    check_own(config)
    given = str(node.get(FOLDER, "")).strip()
    if not given:
        raise SettingError(
            f"data.name = {OWN!r}, and this node's configuration has no {FOLDER}, the folder of its own data (a simulated client "
            f"has none: take another data.name); {GIVE}, or start the federation by `fedwarm federation up --data DIR`"
        )
    own = config.of(Data).at(str(readable(given)))
    return replace(config, groups={**config.groups, Data: own})


def check_own(config: Config) -> None:
    """Refuse what does not go with data that stay where they are; both sides of a run do, and its check before.

    Raises:
        SettingError: it does not.
    """
    data, run = config.of(Data), config.run
    if not data.own:
        return
    listed(data.classes)
    said = f"data.name = {OWN!r}"
    if not Run.of(config).apart:
        raise SettingError(
            f"method {run.method!r} trains on everybody's data in one place, and {said} leaves it at the nodes; "
            f"choose another method"
        )
    if data.test == CENTRAL:
        raise SettingError(f"data.test = {CENTRAL!r} needs data at the server, which has none with {said}; take 'split'")
    if data.public:
        given = (
            f"data.public-where = {data.public_where!r}" if data.public_where else f"data.public-share = {data.public_share:g}"
        )
        raise SettingError(f"{given} with {said}: no part of what nodes hold is public; leave it out")
    if not data.classes and guarded(config):
        raise SettingError(
            f"{said} without data.classes tells the server which classes each node holds, which no epsilon covers; name all "
            "classes of the run in data.classes"
        )


def guarded(config: Config) -> bool:
    """Whether what leaves a client is accounted for, so that not even its list of classes may tell of it."""
    return Run.of(config).accounted

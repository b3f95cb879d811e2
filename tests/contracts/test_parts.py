"""What every augmentation, privacy mechanism and measure keeps to: parts with a half at the server and a half at a client."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedwarm.catalogue import parse
from fedwarm.core.store import Store
from fedwarm.data.node import Node
from fedwarm.parts import ClientPart, Part, ServerPart
from fedwarm.privacy.levels import Level
from fedwarm.rounds.client import BaseClient
from fedwarm.rounds.server import BaseStrategy
from fedwarm.settings.kinds import AUGMENTATIONS, MEASURES, PRIVACY
from fedwarm.settings.registry import Kind

PARTS = [(kind, name) for kind in (AUGMENTATIONS, PRIVACY, MEASURES) for name in kind]


def halves(kind: Kind[Any], name: str, folder: Path) -> tuple[ServerPart, ClientPart]:
    config = parse({"method": "fedavg", **({kind.key: name} if kind.key else {})})
    part = kind.load(name)
    assert isinstance(part, Part)
    return part.server(config), part.client(config, Node(0, 2, Store(folder, "ab", 0, 16)))


@pytest.mark.parametrize(("kind", "name"), PARTS, ids=str)
def test_both_halves_are_made(kind: Kind[Any], name: str, tmp_path: Path) -> None:
    server, client = halves(kind, name, tmp_path)
    assert isinstance(server, ServerPart) and isinstance(client, ClientPart)
    assert isinstance(client.spent(), dict) and not any(hasattr(BaseClient, action) for action in client.actions)


@pytest.mark.parametrize(("kind", "name"), PARTS, ids=str)
def test_what_a_checkpoint_keeps_is_taken_up_again(kind: Kind[Any], name: str, tmp_path: Path) -> None:
    server, _ = halves(kind, name, tmp_path)
    kept = json.loads(json.dumps(server.facts()))
    again, _ = halves(kind, name, tmp_path)
    again.restore(kept)
    assert again.facts() == server.facts()
    again.restore({})  # of a run that was begun before the part kept anything


@pytest.mark.parametrize(("kind", "name"), PARTS, ids=str)
def test_the_stages_of_a_part_are_its_own(kind: Kind[Any], name: str, tmp_path: Path) -> None:
    server, client = halves(kind, name, tmp_path)
    owner = {"augment": "augment", "privacy": "privacy"}.get(kind.key, f"measure {name}")
    for stage in (*server.before((0, 1)), *server.after((0, 1), 2, {"w": __import__("numpy").zeros(1)})):
        assert stage.owner == owner and stage.asked in client.actions
        assert stage.message_type in ("train", "evaluate")


def test_one_that_nobody_chose_leaves_all_as_it_is(tmp_path: Path) -> None:
    for kind in (AUGMENTATIONS, PRIVACY):
        server, client = halves(kind, kind.first, tmp_path)
        assert not [*server.before((0,))] and server.able((0, 1)) == (0, 1) and server.facts() == {}
        assert not client.actions and not client.tells(Level.CLIENT)
    assert not hasattr(BaseStrategy, "augmentation")

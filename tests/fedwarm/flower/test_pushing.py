"""What a message's objects meet at Flower's servers that come a second time: as it comes, and by fedwarm."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

from fedwarm.flower import pushing

RUN = 7
pytestmark = pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning:alembic")
PLACES = pytest.mark.parametrize("place", list(pushing.NAMES))


def state_of(place: str, folder: Path) -> Any:
    """A server's state."""
    if place == pushing.SUPERNODE:
        return InMemoryNodeState(ObjectStoreFactory(":flwr-in-memory:").store())
    database = str(folder / "state.db")
    made = SqlLinkState(database, SimpleNamespace(), ObjectStoreFactory(database).store())  # type: ignore[arg-type]
    made.initialize()
    return made


@pytest.fixture
def sent() -> tuple[Any, dict[str, bytes]]:
    """The tree of objects of what a message holds, and their bytes by name."""
    content = RecordDict({"arrays": ArrayRecord(), "config": ConfigRecord({"round": 3})})
    return get_object_tree(content), {name: each.deflate() for name, each in get_all_nested_objects(content).items()}


@PLACES
def test_what_comes_again_is_stored(
    place: str, sent: tuple[Any, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flower's own says that it was not; so does fedwarm's of what was never announced."""
    kind = getattr(import_module(place), pushing.NAMES[place])
    own = getattr(kind.store_object, "__wrapped__", kind.store_object)
    state, (tree, objects) = state_of(place, tmp_path), sent
    monkeypatch.setattr(kind, "store_object", own)
    session = state.start_session(RUN)
    assert set(state.preregister_object_tree(tree, session)) == objects.keys()
    name, *others = objects
    assert state.store_object(RUN, session, name, objects[name]) and not state.store_object(RUN, session, name, objects[name])
    assert pushing.install(place) and pushing.install(place)
    assert state.store_object(RUN, session, name, objects[name])
    for other in others:
        assert state.store_object(RUN, session, other, objects[other]) and state.store_object(RUN, session, other, objects[other])
    assert not state.store_object(RUN, session, "0" * 64, b"never announced")
    state.object_store.delete(tree.object_id)  # its receiver has taken it
    assert state.store_object(RUN, session, others[-1], objects[others[-1]])
    assert state.object_store.get(others[-1]) is None


@PLACES
def test_an_announcement_that_comes_to_its_turn_late_costs_nothing(
    place: str, sent: tuple[Any, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that was announced twice: its sender knows the first answer that it got, and the server the last session."""
    kind = getattr(import_module(place), pushing.NAMES[place])
    state, (tree, objects) = state_of(place, tmp_path), sent
    monkeypatch.setattr(kind, "store_object", getattr(kind.store_object, "__wrapped__", kind.store_object))
    known, late = state.start_session(RUN), state.start_session(RUN)
    state.preregister_object_tree(tree, known)
    state.preregister_object_tree(tree, late)
    assert not any(state.store_object(RUN, known, name, content) for name, content in objects.items())
    assert pushing.install(place)
    assert all(state.store_object(RUN, known, name, content) for name, content in objects.items())
    assert {name: state.object_store.get(name) for name in objects} == objects


def test_another_flower_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pushing.NAMES, pushing.SUPERLINK, "NoSuchState")
    assert not pushing.install(pushing.SUPERLINK)

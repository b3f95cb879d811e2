"""Objects of messages that are sent a second time, as their sender had no answer in time.

Flower's clients give a request 30 s and send it again. Its servers take an object once: the same bytes that come again are
answered by "not stored", for which a ServerApp, a ClientApp or a SuperNode gives its message up ("the push session may have
expired"). The same is said of all objects of a message whose announcement was sent twice, where the first came to its turn last.
A busy machine, or a disk on which one write waits for another, ended runs by it. Here what was stored stays stored, however often
it comes.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import wraps
from importlib import import_module
from typing import Any

SUPERLINK, SUPERNODE = "flwr.supercore.corestate.sql_corestate", "flwr.supercore.corestate.in_memory_corestate"
NAMES = {SUPERLINK: "SqlCoreState", SUPERNODE: "InMemoryCoreState"}
"""Where Flower's servers keep objects: a SuperLink in a database, a SuperNode in memory."""
ANY_SESSION = ""
REMEMBERED = 2**16


def install(place: str) -> bool:
    """Have a server take for stored what it has stored before; whether this version of Flower has the place for it."""
    try:
        kind = getattr(import_module(place), NAMES[place])
        if not hasattr(kind.store_object, "__wrapped__"):
            kind.store_object = forgiving(kind.store_object)
    except (ImportError, AttributeError):
        return False
    return True


def forgiving(store: Any) -> Any:
    """Flower's way to store an object, by which one that comes again is stored.

    It was stored for the same session, or is there by its bytes, whose hash is its name, or waits for the session of the same
    message's other announcement.
    """
    before: OrderedDict[tuple[str, str], None] = OrderedDict()

    @wraps(store)
    def store_object(state: Any, run_id: int, session_id: str, object_id: str, object_content: bytes) -> bool:
        stored = (
            (session_id, object_id) in before
            or store(state, run_id, session_id, object_id, object_content)
            or (object_content and state.object_store.get(object_id) == object_content)
            or store(state, run_id, ANY_SESSION, object_id, object_content)
        )
        if stored and session_id:
            before[session_id, object_id] = None
            if len(before) > REMEMBERED:
                before.popitem(last=False)
        return bool(stored)

    return store_object

"""How a process begins the task that it was started for: within a minute, and again where it had no answer.

Flower's servers give a process 30 seconds from its start until it asks what it is to do. Then it is refused, and another is
started, which has no more: on a machine so busy that loading takes longer none ever begins. And one whose question had no answer
in 30 seconds asks again, hears that it has begun already, and fails: a message, or with a ServerApp the run. Here it has as long
as one at work has between two signs of life, and may ask again.
"""

from __future__ import annotations

from functools import wraps
from importlib import import_module
from typing import Any

from fedwarm.flower.pushing import NAMES


def install(place: str) -> bool:
    """Have a server do so; whether this version of Flower has the places for it.

    Args:
        place: where it keeps its tasks, `pushing.SUPERLINK` or `pushing.SUPERNODE`.
    """
    try:
        module = import_module(place)
        kind, running = getattr(module, NAMES[place]), module.Status.RUNNING
        if not hasattr(kind.activate_task, "__wrapped__"):
            kind.claim_task, kind.activate_task = claiming(kind.claim_task), activating(kind.activate_task, running)
    except (ImportError, AttributeError):
        return False
    return True


def claiming(claim: Any) -> Any:
    """Flower's way to give a task away, which counts as a sign of life of the process that gets it."""

    @wraps(claim)
    def claim_task(state: Any, task_id: int) -> str | None:
        token: str | None = claim(state, task_id)
        if token is not None:
            state.acknowledge_task_heartbeat(task_id)
        return token

    return claim_task


def activating(activate: Any, running: str) -> Any:
    """Flower's way to begin a task, by which the process that has its token may begin it again while it is `running`."""

    @wraps(activate)
    def activate_task(state: Any, task_id: int) -> bool:
        return bool(activate(state, task_id) or state.get_tasks(task_ids=[task_id], statuses=[running]))

    return activate_task

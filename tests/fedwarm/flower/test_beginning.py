"""How a process begins its task at Flower's servers: by fedwarm within a minute, and again where it had no answer."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from flwr.common.constant import Status, SubStatus
from flwr.supercore.constant import TaskType
from flwr.supercore.date import now

from fedwarm.flower import beginning, pushing
from tests.fedwarm.flower.test_pushing import PLACES, RUN, state_of

pytestmark = pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning:alembic")
BUSY_SECONDS = 45.0


@pytest.fixture
def task(place: str, tmp_path: Path) -> Iterator[tuple[Any, int, pytest.MonkeyPatch]]:
    """A server, and a task that waits for a process."""
    module = import_module(place)
    kind = getattr(module, pushing.NAMES[place])
    with pytest.MonkeyPatch.context() as patch:
        for name in ("claim_task", "activate_task"):
            patch.setattr(kind, name, getattr(getattr(kind, name), "__wrapped__", getattr(kind, name)))
        assert beginning.install(place) and beginning.install(place)
        state = state_of(place, tmp_path)
        yield state, state.create_task(TaskType.CLIENT_APP, RUN), patch


@PLACES
def test_a_process_may_take_its_time_on_a_busy_machine(place: str, task: tuple[Any, int, pytest.MonkeyPatch]) -> None:
    """Flower refuses it after 30 s and has another started, which is no faster."""
    state, number, patch = task
    token = state.claim_task(number)
    assert token and state.claim_task(number) is None
    patch.setattr(import_module(place), "now", lambda: now() + timedelta(seconds=BUSY_SECONDS))
    assert state.get_task_by_token(token).task_id == number and state.activate_task(number)


@PLACES
def test_one_that_never_shows_up_is_replaced(place: str, task: tuple[Any, int, pytest.MonkeyPatch]) -> None:
    state, number, patch = task
    assert state.claim_task(number)
    patch.setattr(import_module(place), "now", lambda: now() + timedelta(seconds=2 * BUSY_SECONDS))
    assert not state.activate_task(number) and state.get_tasks(statuses=[Status.PENDING])


@PLACES
def test_a_process_may_ask_again_what_it_is_to_do(place: str, task: tuple[Any, int, pytest.MonkeyPatch]) -> None:
    state, number, _ = task
    assert not state.activate_task(number)
    assert state.claim_task(number) and state.activate_task(number) and state.activate_task(number)
    assert state.finish_task(number, SubStatus.COMPLETED, "") and not state.activate_task(number)


def test_another_make_of_flower_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beginning, "import_module", ModuleType)
    assert not beginning.install(pushing.SUPERNODE)

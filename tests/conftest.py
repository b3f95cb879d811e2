"""What every test has: one thread, draws that no other test decides, and folders for the user's data and cache of its own.

The suite may run on several processes and in any order, so no test may hang on what ran before it.
"""

from __future__ import annotations

import gc
import os
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded; sums of more threads have other last bits
os.environ |= {} if "FEDWARM_TEST_GPU" in os.environ else {"CUDA_VISIBLE_DEVICES": ""}  # tests expect a CPU's numbers

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile("suite", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")  # the same examples each time, however slow the machine


@pytest.fixture(autouse=True, scope="session")
def own_data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A user's folder of federations for the whole session, as a test's processes may outlive it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(autouse=True, scope="session")
def heeds_ctrl_c() -> None:
    """A suite that was started in the background ignores Ctrl-C, and so would all processes that its tests send it to."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folders that are not there yet, one for each test; pytest's own `mktemp` looks through all that there are."""
    base = tmp_path_factory.mktemp("caches")
    return (base / str(number) for number in count())


@pytest.fixture(autouse=True)
def own_cache(caches: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(next(caches)))
    monkeypatch.delenv("COLUMNS", raising=False)  # which xdist sets for its processes


@contextmanager
def _on_its_own() -> Iterator[None]:
    """Draws from the same seed, and as many threads after it as before: a run in this process sets its own number."""
    torch.default_generator.manual_seed(0)  # torch.manual_seed would queue other devices' seeds, each with the whole stack
    np.random.seed(0)
    random.seed(0)
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup() -> Iterator[None]:
    with _on_its_own():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Iterator[None]:
    with _on_its_own():
        return (yield)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests begin first: begun last, they keep one process busy while the others have nothing left to do."""
    items.sort(key=lambda item: item.path.name not in ("test_readme.py", "test_types.py"))
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU (`make test-gpu`)"))


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """What is known until here stays until the end: no collection of garbage has to look at it again."""
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()

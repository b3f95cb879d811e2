"""Work of the server that is spread over processes of this machine, where whoever runs it said that they may be used.

A piece of work must not depend on who does it. Each process computes on one thread: they share the cores, and none waits.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from contextvars import ContextVar
from multiprocessing import get_context
from typing import Any, TypeVar

from fedwarm.core.capacity import workers_for
from fedwarm.core.forking import FORK, aside, end_with_parent, leave_signals_to_parent, start_method

ALONE = 1
LEAST = 4  # pieces a process: for fewer none is started
Job = TypeVar("Job")
_asked: ContextVar[int] = ContextVar("asked", default=ALONE)
_work: list[Callable[[Any], Any]] = []


@contextmanager
def shared(workers: int) -> Iterator[None]:
    """In this block work may be spread over so many processes; 0: as many as cores and memory are good for, 1: none."""
    token = _asked.set(workers)
    try:
        yield
    finally:
        _asked.reset(token)


def spread(work: Callable[[Job], Any], jobs: Sequence[Job]) -> Generator[tuple[Job, Any], None, None]:
    """Each job with its result, as they are done: in this process in their order, or in several in the order of their end.

    Args:
        work: called on one thread; what it refers to is as it was when the first result was asked for. It changes nothing here.
        jobs: small, and can be pickled, as what `work` gives.

    Raises:
        RuntimeError: a process ended before its work did.
        Exception: what `work` raises.
    """
    from fedwarm.core.compute import torch_threads

    processes = workers_for(len(jobs) // LEAST or 1, _asked.get())
    if processes == ALONE or start_method() != FORK:
        with torch_threads(1):
            yield from ((job, work(job)) for job in jobs)
        return
    pool = ProcessPoolExecutor(processes, get_context(FORK), _begin, (work,))
    try:
        given = _given(pool, jobs)
        yield from ((given[future], future.result()) for future in as_completed(given))
    except BrokenProcessPool as error:
        raise RuntimeError("a process of this machine that shared work ended, as for want of memory; use --workers 1") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _given(pool: ProcessPoolExecutor, jobs: Sequence[Job]) -> dict[Future[Any], Job]:
    """All jobs are handed in, by which the processes are forked."""
    given: dict[Future[Any], Job] = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
        aside(lambda: given.update({pool.submit(_do, job): job for job in jobs}))
    return given


def _begin(work: Callable[[Any], Any]) -> None:
    """In a new process."""
    import torch

    leave_signals_to_parent()
    end_with_parent()
    torch.set_num_threads(1)
    _work[:] = [work]


def _do(job: Any) -> Any:
    return _work[0](job)

"""Work over processes: the same results, on one thread each; what goes wrong there is told here."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from functools import partial

import pytest
import torch

from fedwarm.core.compute import torch_threads
from fedwarm.core.forking import FORK, start_method
from fedwarm.core.spread import LEAST, shared, spread

JOBS = range(3 * LEAST)
FORKS = pytest.mark.skipif(
    sys.platform != "linux" or torch.cuda.is_available(), reason="work is spread where processes can be forked"
)


def look(job: int) -> tuple[int, int, int]:
    return job * job, torch.get_num_threads(), os.getpid()


@FORKS
@pytest.mark.parametrize("workers", [1, 2])
def test_each_job_has_its_result_by_one_thread(workers: int) -> None:
    with torch_threads(2):
        torch.randn(300, 300) @ torch.randn(300, 300)
        with shared(workers):
            found = dict(spread(look, JOBS))
        assert torch.get_num_threads() == 2
    assert {job: square for job, (square, _, _) in found.items()} == {job: job * job for job in JOBS}
    assert {threads for _, threads, _ in found.values()} == {1}
    processes = {process for _, _, process in found.values()}
    assert (processes == {os.getpid()}) if workers == 1 else (os.getpid() not in processes and len(processes) <= workers)


def heeded(job: int) -> list[object]:
    return [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)]


@FORKS
def test_what_ends_the_run_is_its_own_to_heed() -> None:
    """A terminal that is closed tells all processes of its group; the run's own handler is none for those that share work."""
    before = signal.signal(signal.SIGHUP, lambda number, frame: None)
    try:
        with shared(2):
            found = [told for _, told in spread(heeded, JOBS)]
    finally:
        signal.signal(signal.SIGHUP, before)
    assert found == [[signal.SIG_IGN, signal.SIG_IGN, signal.SIG_DFL]] * len(JOBS)


def test_without_a_word_all_is_done_here_in_order() -> None:
    assert [(job, process) for job, (_, _, process) in spread(look, JOBS)] == [(job, os.getpid()) for job in JOBS]
    with shared(0):
        assert [process for _, (_, _, process) in spread(look, JOBS[: LEAST - 1])] == [os.getpid()] * (LEAST - 1)
        assert not list(spread(look, JOBS[:0]))


@FORKS
def test_what_goes_wrong_in_a_process_is_told() -> None:
    def fails(how: Callable[[], object], job: int) -> None:
        if job == 5:
            how()

    assert start_method() == FORK
    with shared(2), pytest.raises(ZeroDivisionError):
        list(spread(partial(fails, lambda: 1 / 0), JOBS))
    with shared(2), pytest.raises(RuntimeError, match="--workers 1"):
        list(spread(partial(fails, partial(os._exit, 3)), JOBS))

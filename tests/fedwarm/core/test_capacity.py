"""Cores and memory as containers grant them, from files written as Linux writes them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil  # type: ignore[import-untyped]
import pytest

from fedwarm.core import capacity
from fedwarm.core.capacity import cores, free_bytes, threads_of, workers_for
from fedwarm.settings.fields import SettingError

Machine = Callable[[dict[str, str]], None]
GB = 10**9
SECOND = {
    "proc/self/cgroup": "0::/kubepods/pod1/box",
    "proc/self/mountinfo": "31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate",
}
FIRST = {
    "proc/self/cgroup": "9:name=systemd:/\n4:memory:/docker/abc\n1:cpu,cpuacct:/docker/abc\n0::/",
    "proc/self/mountinfo": (
        "30 23 0:27 / /proc rw - proc proc rw\n"
        "32 31 0:29 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n"
        "35 31 0:32 / /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory"
    ),
}
UNBOUND = str(2**63 - 4096)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Makes this machine one of 16 cores and 64 GB, with these files."""
    monkeypatch.setattr(capacity, "ROOT", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=64 * GB))
    for name in (*capacity.THREAD_VARIABLES, capacity.CORES_VARIABLE):
        monkeypatch.delenv(name, raising=False)

    def write(files: dict[str, str]) -> None:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")

    return write


V2, V1_CPU, V1_MEMORY = "sys/fs/cgroup", "sys/fs/cgroup/cpu,cpuacct", "sys/fs/cgroup/memory/docker"


@pytest.mark.parametrize(
    ("files", "count"),
    [
        ({}, 16),
        (SECOND, 16),
        ({**SECOND, f"{V2}/kubepods/pod1/box/cpu.max": "max 100000"}, 16),
        ({**SECOND, f"{V2}/kubepods/pod1/box/cpu.max": "300000 100000"}, 3),
        ({**SECOND, f"{V2}/kubepods/pod1/box/cpu.max": "max 100000", f"{V2}/kubepods/cpu.max": "200000 100000"}, 2),
        ({**SECOND, f"{V2}/kubepods/pod1/box/cpu.max": "150000 100000"}, 2),
        ({**SECOND, f"{V2}/kubepods/pod1/box/cpu.max": "1000 100000"}, 1),
        ({**SECOND, f"{V2}/kubepods/pod1/box/cpu.max": "9900000 100000"}, 16),
        ({**SECOND, "proc/self/cgroup": "0::/", f"{V2}/cpu.max": "400000 100000"}, 4),
        ({**SECOND, "proc/self/cgroup": "0::/../other", f"{V2}/cpu.max": "400000 100000"}, 4),
        ({**FIRST, f"{V1_CPU}/cpu.cfs_quota_us": "-1", f"{V1_CPU}/cpu.cfs_period_us": "100000"}, 16),
        ({**FIRST, f"{V1_CPU}/cpu.cfs_quota_us": "250000", f"{V1_CPU}/cpu.cfs_period_us": "50000"}, 5),
        ({**FIRST, f"{V1_CPU}/cpu.cfs_quota_us": "250000", f"{V1_CPU}/cpu.cfs_period_us": "0"}, 16),
    ],
)
def test_cores_are_those_of_affinity_and_every_quota(machine: Machine, files: dict[str, str], count: int) -> None:
    machine(files)
    assert cores() == count


def test_cores_where_nobody_tells_of_affinity(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert cores() == 12
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores() == 1


@pytest.mark.parametrize(("told", "count"), [("4", 4), ("99", 16), ("", 16)])
def test_cores_are_no_more_than_the_environment_says(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, told: str, count: int
) -> None:
    machine({})
    monkeypatch.setenv(capacity.CORES_VARIABLE, told)
    assert cores() == count


@pytest.mark.parametrize("told", ["0", "-1", "many", "2.5"])
def test_what_is_no_number_of_cores_is_refused(monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    monkeypatch.setenv(capacity.CORES_VARIABLE, told)
    with pytest.raises(SettingError, match=f"FEDWARM_CORES = '{told}' in the environment must be a whole number above 0"):
        cores()


@pytest.mark.parametrize(
    ("files", "gigabytes"),
    [
        ({}, 64),
        ({**SECOND, f"{V2}/kubepods/pod1/box/memory.max": "max", f"{V2}/kubepods/pod1/box/memory.current": str(GB)}, 64),
        ({**SECOND, f"{V2}/kubepods/pod1/box/memory.max": str(4 * GB), f"{V2}/kubepods/pod1/box/memory.current": str(3 * GB)}, 1),
        (
            {
                **SECOND,
                f"{V2}/kubepods/pod1/box/memory.max": str(4 * GB),
                f"{V2}/kubepods/pod1/box/memory.current": str(3 * GB),
                f"{V2}/kubepods/pod1/box/memory.stat": f"anon {GB}\nfile {2 * GB}\ninactive_file {2 * GB}",
            },
            3,
        ),
        ({**SECOND, f"{V2}/kubepods/memory.high": str(4 * GB), f"{V2}/kubepods/memory.current": str(5 * GB)}, 0),
        ({**FIRST, f"{V1_MEMORY}/abc/memory.limit_in_bytes": UNBOUND, f"{V1_MEMORY}/abc/memory.usage_in_bytes": "0"}, 64),
        (
            {
                **FIRST,
                f"{V1_MEMORY}/abc/memory.limit_in_bytes": str(8 * GB),
                f"{V1_MEMORY}/abc/memory.usage_in_bytes": str(3 * GB),
                f"{V1_MEMORY}/abc/memory.stat": f"inactive_file 1\ntotal_inactive_file {GB}",
                f"{V1_MEMORY}/memory.limit_in_bytes": str(9 * GB),
                f"{V1_MEMORY}/memory.usage_in_bytes": str(7 * GB),
            },
            2,
        ),
    ],
)
def test_free_memory_is_what_the_machine_and_every_group_leave(machine: Machine, files: dict[str, str], gigabytes: int) -> None:
    machine(files)
    assert free_bytes() == gigabytes * GB


def test_workers_go_by_cores_and_memory(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    machine({**SECOND, f"{V2}/kubepods/pod1/box/cpu.max": "600000 100000"})
    with caplog.at_level(logging.WARNING, "fedwarm"):
        assert [workers_for(clients) for clients in (1, 4, 32)] == [1, 4, 6]
        assert workers_for(32, 20) == 20 and workers_for(3, 20) == 3
        assert [threads_of(workers) for workers in (1, 2, 4, 20)] == [6, 3, 1, 1]
    assert not caplog.records
    for available, count in ((2 * GB, 3), (GB // 2, 1)):
        caplog.clear()
        monkeypatch.setattr(psutil, "virtual_memory", lambda available=available: SimpleNamespace(available=available))
        with caplog.at_level(logging.WARNING, "fedwarm"):
            assert workers_for(32) == count and workers_for(32, 20) == 20
        (line,) = caplog.messages
        assert line.startswith(f"{count} worker{'s' * (count > 1)} instead of 6: {available / GB:.1f} GB of memory are free")


def test_what_a_worker_loads_counts(machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """And that this process loads it, too: five times 3.4 GB and four times .6 GB are 19.4 GB."""
    machine(SECOND)
    for available, count in ((194 * GB // 10, 4), (193 * GB // 10, 3), (GB, 1)):
        monkeypatch.setattr(psutil, "virtual_memory", lambda available=available: SimpleNamespace(available=available))
        with caplog.at_level(logging.WARNING, "fedwarm"):
            assert workers_for(32, 0, 34 * GB // 10) == count and workers_for(32, 20, 34 * GB // 10) == 20
        assert caplog.messages[-1].endswith("and a worker takes about 4.0; --workers sets another number")


def test_the_environments_threads_bound_a_workers(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert [threads_of(workers) for workers in (1, 2, 8)] == [4, 4, 2]
    monkeypatch.setenv("MKL_NUM_THREADS", "0")
    assert threads_of(1) == 1


def test_workers_that_cannot_be_are_refused(machine: Machine) -> None:
    with pytest.raises(SettingError, match="workers = -1 is too few"):
        workers_for(4, -1)

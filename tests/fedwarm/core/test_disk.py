"""A disk that takes no more, a folder that cannot be written, no home: one line with the path and a remedy, and nothing lost."""

from __future__ import annotations

import errno
import json
import os
import pickle
import pwd
import resource
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Message
from safetensors.numpy import load_file, save_file

from fedwarm.augmentations.gen_fedsd.shelf import Shelf
from fedwarm.core.compute import torch_threads
from fedwarm.core.failures import RunError
from fedwarm.core.files import DiskError, make_folder, replacing, try_folder, write_text, writing
from fedwarm.core.store import Store, cache_home
from fedwarm.engines import Asked, Engine
from fedwarm.launch import run as launch
from fedwarm.launch.run import Request, run_method
from fedwarm.record.lock import Lock
from fedwarm.settings.fields import SettingError, Value
from tests.engines import Heard
from tests.runs import same
from tests.shell import call

SMALL = "data.max-examples=8 local-epochs=1 data.partition='iid'"
NOWHERE = Path("/proc/none/run")


@contextmanager
def full(most_bytes: int) -> Iterator[None]:
    """No file of this process may grow beyond so many bytes, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(autouse=True)
def _shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    for name in (*launch.QUIET, "FEDWARM_ENGINE"):
        monkeypatch.setenv(name, "1")
    with torch_threads(torch.get_num_threads()):
        yield


def test_an_error_of_the_system_becomes_one_line(tmp_path: Path) -> None:
    for number, remedy in ((errno.ENOSPC, "make room"), (errno.EROFS, "on a disk that can"), (errno.ENOENT, "another folder")):
        with pytest.raises(DiskError) as caught, writing(tmp_path / "a"):
            raise OSError(number, "?", "/elsewhere")
        text = str(caught.value)
        assert text.startswith(f"{tmp_path / 'a'} cannot be written: {os.strerror(number)}; ") and remedy in text
        assert caught.value.errno == number and str(pickle.loads(pickle.dumps(caught.value))) == text
    with pytest.raises(ValueError, match="as it was"), writing(tmp_path / "a"):
        raise ValueError("as it was")


def test_what_safetensors_says_becomes_the_same(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"before")
    line = r"m.safetensors cannot be written: File too large; raise the limit"
    with full(1000), pytest.raises(DiskError, match=line), replacing(path) as temporary:
        save_file({"w": np.zeros(1000)}, temporary)
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]


WRITERS: dict[str, Callable[[Path], object]] = {
    "text": lambda place: write_text(place / "a", "x"),
    "folder": make_folder,
    "tried folder": try_folder,
    "lock": lambda place: Lock(place).held().__enter__(),
    "store": lambda place: Store(place, "a1", 0).save("personal", {"w": torch.zeros(2)}, 1),
    "shelf": lambda place: Shelf(place, "a1", 8, lambda c: {}).set_speed(1.0),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_whoever_writes_names_the_place(writer: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (NOWHERE, tmp_path / "file" / "run"):
        with pytest.raises(DiskError, match=f"^{place}.* cannot be written: ") as caught:
            WRITERS[writer](place)
        assert "\n" not in str(caught.value)


class Filling(Engine):
    """The local engine, on a disk where files of a model's size do not fit: from a round on, or from the beginning."""

    def __init__(self, first: str = "") -> None:
        self.first = first

    def run(self, settings: Mapping[str, Value], asked: Asked) -> None:
        with ExitStack() as filled:
            if not self.first:
                filled.enter_context(full(50_000))
            Heard(lambda message: self.fill(message, filled)).run(settings, asked)

    def fill(self, message: Message, filled: ExitStack) -> None:
        if message.metadata.group_id == self.first:
            filled.enter_context(full(50_000))


FILLING, FULL = Filling("2"), Filling()


def test_a_full_disk_ends_a_run_with_one_line_and_it_goes_on(tmp_path: Path) -> None:
    """With room again the run is the unbroken one."""
    request = Request("fedavg", rounds=2, clients=2, workers=1, run_config=(SMALL,))
    whole = run_method(launch.replace(request, out=tmp_path / "whole"))
    place = tmp_path / "run"
    with pytest.raises(RunError) as caught:
        run_method(launch.replace(request, out=place, engine=f"{__name__}:FILLING"))
    text = str(caught.value)
    assert text.startswith(f"{place}/checkpoint/model.safetensors cannot be written: File too large; raise the limit")
    assert (
        text.endswith(f"; then continue with: fedwarm run --resume --out {place} --engine {__name__}:FILLING")
        and "\n" not in text
    )
    assert not list(place.rglob(".*"))
    run_method(Request("", out=place, resume=True, workers=1))
    assert same(load_file(place / "model.safetensors"), load_file(whole / "model.safetensors"))


def test_a_disk_that_was_full_from_the_beginning_has_nothing_to_resume(tmp_path: Path) -> None:
    place = tmp_path / "run"
    with pytest.raises(RunError, match="; then give the same command again with --fresh$"):
        run_method(Request("fedavg", rounds=2, clients=2, workers=1, run_config=(SMALL,), out=place, engine=f"{__name__}:FULL"))
    run_method(Request("fedavg", rounds=1, clients=2, workers=1, run_config=(SMALL,), out=place, fresh=True))
    assert (place / "model.safetensors").exists()


@pytest.mark.parametrize("form", ["torch", "report"])
def test_what_cannot_be_written_is_refused_by_the_command(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_method(Request("fedavg", out=tmp_path / "run", rounds=1, clients=2, workers=1, run_config=(SMALL,)))
    capsys.readouterr()
    command = ["export", "run", "--out"] if form == "torch" else ["report", "run", "--out"]
    assert call(monkeypatch, *command, str(NOWHERE)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(NOWHERE) in line and "cannot be written: No such file or directory; " in line


def test_a_run_folder_that_cannot_be_made_is_refused_before_the_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "run", "fedavg", "--clients", "2", "--out", str(NOWHERE), "-c", SMALL) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"fedwarm: --out {NOWHERE} cannot be written: No such file or directory; name another folder"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (DiskError(Path("/a"), errno.ENOSPC), 2, "/a cannot be written: No space left on device; make room there"),
        (PermissionError(errno.EACCES, "Permission denied", "/b"), 1, "/b: Permission denied"),
        (FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"), 1, "No usable temporary directory"),
    ],
)
def test_no_error_of_the_system_is_a_traceback(
    error: OSError, code: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def end(request: Request) -> None:
        raise error

    monkeypatch.delenv("FEDWARM_DEBUG", raising=False)
    monkeypatch.setattr(launch, "run_method", end)
    assert call(monkeypatch, "run", "fedavg") == code
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"fedwarm: {line}")


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """As in a container whose user is not in its passwd: what needs a cache says so, and a run needs none."""

    def nobody(number: int) -> Any:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.raises(SettingError, match=r"has no home folder .*; set HOME or XDG_CACHE_HOME .*or the setting client-folder$"):
        cache_home()
    assert call(monkeypatch, "state") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "has no home folder" in line
    run_method(Request("fedavg", out=tmp_path / "run", rounds=1, clients=2, workers=1, run_config=(SMALL,)))
    assert json.loads((tmp_path / "run" / "results.json").read_text())["complete"] and (tmp_path / "run" / "report.html").exists()

"""The shelf: each image drawn once, whatever is killed, damaged or done at the same time."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from fedwarm.augmentations.gen_fedsd.drawn import POOL, Drawn
from fedwarm.augmentations.gen_fedsd.memory import Memory
from fedwarm.augmentations.gen_fedsd.shelf import Shelf
from fedwarm.core.store import Store
from fedwarm.settings.fields import SettingError

ROOT = Path(__file__).parents[4]
KEY, SIZE = "ab12", 8


def picture(index: int, size: int = SIZE) -> torch.Tensor:
    return torch.randint(256, (3, size, size), generator=torch.Generator().manual_seed(index), dtype=torch.uint8)


def drawn(indices: Sequence[int], size: int = SIZE) -> Drawn:
    """What a source would draw: an image is a function of its index."""
    whole, real = torch.tensor(list(indices), dtype=torch.int64), torch.ones(len(indices))
    images = torch.stack([picture(i, size) for i in indices])
    return Drawn(images, whole, 100 + whole, whole % 3, torch.ones_like(whole), real, real / 4)


class Source:
    """Draws, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def __call__(self, indices: Sequence[int]) -> Drawn:
        self.asked.append(list(indices))
        return drawn(indices)


def shelf(root: Path, **changes: Any) -> Shelf:
    return Shelf(root, KEY, SIZE, lambda label: {"said of": label}, **changes)


def files(root: Path, owner: str = "0") -> list[Path]:
    return sorted((root / KEY / owner).glob("*.safetensors"))


def same(got: Drawn, indices: Sequence[int]) -> bool:
    return got.indices.tolist() == list(indices) and torch.equal(got.images, drawn(indices).images)


def test_only_what_is_missing_is_drawn(tmp_path: Path) -> None:
    source = Source()
    first, made = shelf(tmp_path).take(0, 4, [5, 1, 3], source)
    assert made == 3 and source.asked == [[1, 3, 5]] and same(first, [5, 1, 3])
    second, made = shelf(tmp_path).take(0, 4, [3, 2, 5, 3], source)
    assert made == 1 and source.asked[1:] == [[2]] and same(second, [3, 2, 5, 3])
    assert second.seeds.tolist() == [103, 102, 105, 103] and second.prompts.tolist() == [0, 2, 2, 0]
    third, made = shelf(tmp_path).take(0, 4, [1], source)
    assert made == 0 and len(source.asked) == 2 and same(third, [1])


def test_owners_and_classes_are_apart(tmp_path: Path) -> None:
    for owner, label in ((0, 1), (0, 2), (1, 1), (POOL, 1)):
        source = Source()
        assert shelf(tmp_path).take(owner, label, [0, 1], source)[1] == 2 and source.asked == [[0, 1]]
    assert shelf(tmp_path).have(POOL, 1) == {0, 1} and shelf(tmp_path).have(POOL, 2) == set()
    assert Shelf(tmp_path, "cd", SIZE, lambda label: {}).have(0, 1) == set()


def test_nothing_asked_is_nothing_done(tmp_path: Path) -> None:
    got, made = shelf(tmp_path).take(0, 0, [], Source())
    assert len(got) == 0 and got.images.shape == (0, 3, SIZE, SIZE) and made == 0 and not list(tmp_path.iterdir())


def test_finding_draws_nothing(tmp_path: Path) -> None:
    assert len(shelf(tmp_path).find(0, 0, [1, 2])) == 0 and not list(tmp_path.iterdir())
    shelf(tmp_path).take(0, 0, [1, 4], Source())
    assert same(shelf(tmp_path).find(0, 0, [4, 2, 1]), [4, 1])


def test_batches_are_filled_up_with_what_somebody_may_ask_for(tmp_path: Path) -> None:
    source = Source()
    got, made = shelf(tmp_path).take(POOL, 0, [7, 2], source, batch=4, stock=10)
    assert source.asked == [[0, 1, 2, 7]] and made == 2 and same(got, [7, 2])
    assert shelf(tmp_path).take(POOL, 0, [0, 1], source, batch=4, stock=10)[1] == 0
    assert shelf(tmp_path).take(POOL, 0, range(10), source, batch=4, stock=10)[1] == 6
    assert source.asked[1:] == [[3, 4, 5, 6, 8, 9]]
    shelf(tmp_path).take(0, 0, [7, 2], source, batch=4)
    assert source.asked[2:] == [[2, 7]]


def test_files_are_the_owners_alone_and_say_where_they_came_from(tmp_path: Path) -> None:
    shelf(tmp_path).take(3, 1, [0, 1], Source())
    for folder in (tmp_path / KEY, tmp_path / KEY / "3"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (path,) = files(tmp_path, "3")
    assert all(stat.S_IMODE(p.stat().st_mode) == 0o600 for p in path.parent.iterdir())
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["provenance"]) == {"said of": 1, "owner": 3, "class": 1}
        assert set(file.keys()) == {"images", "indices", "seeds", "prompts", "tries", "scores", "seconds"}


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-300] ^= 1
    path.write_bytes(data)


def rubbish(path: Path) -> None:
    path.write_bytes(b"not a file of tensors")


def other_tensors(path: Path) -> None:
    save_file({"images": torch.zeros(2)}, path)


def vanish(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [truncate, flip, rubbish, other_tensors, vanish])
def test_a_damaged_file_is_drawn_again(tmp_path: Path, damage: Callable[[Path], None], warned: list[str]) -> None:
    kept = shelf(tmp_path, chunk=3)
    kept.take(0, 1, range(6), Source())
    first, _ = files(tmp_path)
    damage(first)
    source = Source()
    got, made = shelf(tmp_path, chunk=3).take(0, 1, range(6), source)
    assert made == 3 and source.asked == [[0, 1, 2]] and same(got, range(6))
    assert [line for line in warned if str(first) in line and "drawn again" in line] == warned
    assert len(warned) == (damage is not vanish) and not any("\n" in line for line in warned)
    assert shelf(tmp_path).take(0, 1, range(6), Source())[1] == 0


def test_a_shelf_beyond_its_limit_is_refused_and_keeps_what_it_has(tmp_path: Path) -> None:
    large = Shelf(tmp_path, KEY, 64, lambda label: {}, limit_mb=1, chunk=40)
    with pytest.raises(SettingError, match=r"need more than 1 MB below .*raise client-state-mb or set gen-fedsd.pool"):
        large.take(0, 0, range(100), lambda indices: drawn(indices, 64))
    assert large.have(0, 0) == set(range(80))


def test_the_store_counts_the_shelf_and_removes_the_oldest_first(tmp_path: Path) -> None:
    shelf(tmp_path).take(0, 0, range(4), Source())
    Store(tmp_path, "dd", 0, 1).save("x", {"w": torch.zeros(2**16)}, 0)
    then = time.time() - 100
    for folder in (KEY, "dd"):
        os.utime(tmp_path / folder, (then, then))
    shelf(tmp_path).take(0, 0, [1], Source())
    Store(tmp_path, "ee", 0, 1).save("x", {"w": torch.zeros(3 * 2**16)}, 0)
    assert sorted(p.name for p in tmp_path.iterdir()) == [KEY, "ee"], "what was used last stays"
    os.utime(tmp_path / KEY, (then, then))
    Store(tmp_path, "ff", 0, 1).save("x", {"w": torch.zeros(3 * 2**16)}, 0)
    assert KEY not in {p.name for p in tmp_path.iterdir()}
    assert shelf(tmp_path).take(0, 0, [1], Source())[1] == 1


def test_the_speed_is_kept(tmp_path: Path) -> None:
    assert shelf(tmp_path).speed() is None
    shelf(tmp_path).set_speed(0.25)
    assert shelf(tmp_path).speed() == 0.25
    (tmp_path / KEY / "speed.json").write_text("[1")
    assert shelf(tmp_path).speed() is None


def test_the_speed_is_measured_once_by_whoever_is_first(tmp_path: Path) -> None:
    measured: list[float] = []

    def measure() -> float:
        time.sleep(0.1)
        measured.append(0.5 + len(measured))
        return measured[-1]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: shelf(tmp_path).measured(measure), range(4))) == [0.5] * 4
    assert measured == [0.5]


def test_a_lock_that_somebody_removed_holds_nobody(tmp_path: Path) -> None:
    """Room was made while one waited for its turn: it takes a new lock, which others wait for."""
    kept, source = shelf(tmp_path), Source()
    with ThreadPoolExecutor(1) as pool, kept.locked(0, 1):
        waiting = pool.submit(shelf(tmp_path).take, 0, 1, [0, 1], source)
        time.sleep(0.2)
        assert not waiting.done()
        shutil.rmtree(tmp_path / KEY)
    got, made = waiting.result(timeout=10)
    assert made == 2 and same(got, [0, 1])
    assert sorted(p.name for p in (tmp_path / KEY / "0").iterdir()) == ["1.000000.safetensors", "1.lock"]


def test_memory_is_bounded_and_a_changed_file_is_read_again(tmp_path: Path) -> None:
    memory, read = Memory(3 * 3 * SIZE * SIZE), list[Path]()

    def reading(path: Path) -> Drawn:
        read.append(path)
        return drawn([int(path.name)])

    paths = [tmp_path / str(index) for index in range(5)]
    for path in paths:
        path.write_text("")
        assert same(memory.get(path, reading), [int(path.name)])
    for path in (paths[2], paths[4], paths[1], paths[2]):
        memory.get(path, reading)
    assert len(memory) == 3 and read == [*paths, paths[1]]
    os.utime(paths[2], ns=(1, 1))
    assert same(memory.get(paths[2], reading), [2]) and read[-1] == paths[2]
    kept = shelf(tmp_path, chunk=1, memory=memory)
    kept.take(0, 0, range(6), Source())
    assert all(same(kept.find(0, 0, range(6)), range(6)) for _ in range(2)) and len(memory) == 3


PROCESS = """
import os, signal, sys, time
from pathlib import Path
from tests.fedwarm.augmentations.gen_fedsd.test_shelf import drawn, shelf
root, name, mode, wanted = Path(sys.argv[1]), sys.argv[2], sys.argv[3], [int(i) for i in sys.argv[4].split(",")]
calls = 0
def make(indices):
    global calls
    calls += 1
    if mode == "killed" and calls == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    with (root / f"{name}.log").open("a") as log:
        log.writelines(f"{i}\\n" for i in indices)
    time.sleep(0.05)
    return drawn(indices)
(root / f"{name}.ready").touch()
while mode == "together" and not (root / "go").exists():
    time.sleep(0.01)
got, made = shelf(root, chunk=4).take("pool", 0, wanted, make)
assert got.indices.tolist() == wanted
(root / f"{name}.images").write_bytes(got.images.numpy().tobytes())
"""


def start(root: Path, name: str, mode: str, wanted: Sequence[int]) -> subprocess.Popen[bytes]:
    told = ",".join(map(str, wanted))
    return subprocess.Popen([sys.executable, "-c", PROCESS, str(root), name, mode, told], cwd=ROOT)


def logged(root: Path, name: str) -> list[int]:
    return [int(line) for line in (root / f"{name}.log").read_text().split()]


def test_a_client_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    killed = start(tmp_path, "killed", "killed", range(20))
    assert killed.wait(60) == -signal.SIGKILL
    assert logged(tmp_path, "killed") == list(range(8)) and shelf(tmp_path).have(POOL, 0) == set(range(8))
    left = tmp_path / KEY / POOL / ".0.000002.safetensors.123"
    left.write_bytes(b"half a file")
    source = Source()
    got, made = shelf(tmp_path, chunk=4).take(POOL, 0, range(20), source)
    assert made == 12 and source.asked[0] == [8, 9, 10, 11] and same(got, range(20))
    assert not left.exists()


@pytest.mark.long
def test_two_processes_draw_nothing_twice(tmp_path: Path) -> None:
    wanted = {"a": list(range(0, 24)), "b": list(range(40, 11, -1))}
    processes = [start(tmp_path, name, "together", which) for name, which in wanted.items()]
    while not all((tmp_path / f"{name}.ready").exists() for name in wanted):
        assert not any(process.poll() for process in processes)
        time.sleep(0.02)
    (tmp_path / "go").touch()
    assert [process.wait(60) for process in processes] == [0, 0]
    made = logged(tmp_path, "a") + logged(tmp_path, "b")
    assert sorted(made) == list(range(41))
    for name, which in wanted.items():
        assert (tmp_path / f"{name}.images").read_bytes() == drawn(which).images.numpy().tobytes()

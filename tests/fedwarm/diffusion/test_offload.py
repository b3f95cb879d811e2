"""Weights away and back: every bit, no memory meanwhile, a private file that goes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from fedwarm.diffusion.offload import away, open_private, raw, read_into, write_all

Digest = Callable[[nn.Module], str]
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads this process's memory from /proc")


def module() -> nn.Module:
    """Parameters of several types, an empty one, a scalar, a shared one and a buffer."""
    made = nn.Module()
    made.a = nn.Linear(7, 5)
    made.b = nn.Conv2d(2, 3, 3).half()
    made.c = nn.Linear(3, 3).bfloat16()
    made.shared = made.a
    made.tied = made.a.weight
    made.scalar, made.none = nn.Parameter(torch.tensor(3.0)), nn.Parameter(torch.empty(0, 4))
    made.register_buffer("steps", torch.arange(4))
    return made


def bits(made: nn.Module) -> dict[str, bytes]:
    return {name: bytes(raw(t.contiguous())) for name, t in made.state_dict().items()}


def test_all_bits_come_back(tmp_path: Path) -> None:
    made = module()
    before, parameters = bits(made), list(map(id, made.parameters()))
    size = sum(t.numel() * t.itemsize for t in [*made.parameters(), *made.buffers()])
    with away([made], tmp_path / "weights") as freed:
        assert freed == size == (tmp_path / "weights").stat().st_size
        assert [t.numel() for t in made.state_dict().values()] == [0] * len(before)
        assert (tmp_path / "weights").stat().st_mode & 0o777 == 0o600
        with pytest.raises(RuntimeError):
            made.a(torch.zeros(1, 7))
    assert bits(made) == before and list(map(id, made.parameters())) == parameters
    assert made.tied is made.a.weight
    assert list(tmp_path.iterdir()) == []


def test_an_error_inside_brings_them_back_too(tmp_path: Path) -> None:
    made = module()
    before = bits(made)
    with pytest.raises(KeyboardInterrupt), away([made], tmp_path / "weights"):
        raise KeyboardInterrupt
    assert bits(made) == before and list(tmp_path.iterdir()) == []


def test_a_disk_that_fails_leaves_the_weights_where_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedwarm.diffusion import offload

    made = module()
    before, written = bits(made), []

    def full(file: object, tensor: torch.Tensor) -> None:
        written.append(tensor)
        if len(written) > 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(offload, "write_all", full)
    with pytest.raises(OSError, match="No space"), away([made], tmp_path / "weights"):
        raise AssertionError("the block must not begin")
    assert bits(made) == before and list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("mine")
    with pytest.raises(FileExistsError), away([module()], tmp_path / "weights"):
        pass
    assert (tmp_path / "weights").read_text() == "mine"


def test_private_files_ignore_a_generous_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        open_private(tmp_path / "x").close()
    finally:
        os.umask(old)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o600


def test_a_short_file_is_an_error(tmp_path: Path) -> None:
    with open_private(tmp_path / "x") as file:
        write_all(file, torch.ones(3))
        file.seek(0)
        with pytest.raises(EOFError, match="4 bytes too early"):
            read_into(file, torch.empty(4))


MEASURE = """
import sys, torch, pathlib
from torch import nn
from fedwarm.diffusion.offload import away

def resident():
    lines = open("/proc/self/status").read().splitlines()
    return sum(int(l.split()[1]) for l in lines if l.startswith(("RssAnon", "RssFile"))) * 1024

folder = pathlib.Path(sys.argv[1])
if sys.argv[2] == "mapped":
    from safetensors.torch import load_file
    layers = [nn.Linear(1, 1) for _ in range(40)]
    for layer, tensor in zip(layers, load_file(folder / "w.safetensors").values(), strict=True):
        layer.weight.data = tensor
else:
    layers = [nn.Linear(1000, 1000, bias=False) for _ in range(40)]
model = nn.ModuleList(layers)
total = float(sum(l.weight.sum() for l in layers))
before = resident()
with away(list(model[:30]), folder / "weights") as freed:
    print(freed, before - resident())
    after = float(sum(l.weight.sum() for l in layers[30:]))
print(total == float(sum(l.weight.sum() for l in layers)))
"""


@pytest.mark.long
@LINUX
@pytest.mark.parametrize("kind", ["memory", "mapped"])
def test_the_process_really_shrinks(tmp_path: Path, kind: str) -> None:
    """120 MB of 160, in numbers of the operating system; once in plain memory, once in a mapped safetensors file."""
    from safetensors.torch import save_file

    if kind == "mapped":
        save_file({f"{i:02}": torch.full((1000, 1000), float(i)) for i in range(40)}, tmp_path / "w.safetensors")
    command = [sys.executable, "-c", MEASURE, str(tmp_path), kind]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    freed, fell = map(int, done.stdout.splitlines()[0].split())
    assert 120_000_000 <= freed <= 120_001_000
    assert fell >= 0.98 * 120_000_000
    assert done.stdout.splitlines()[1] == "True"


@pytest.mark.long
@LINUX
def test_what_is_freed_between_others_is_the_systems_again() -> None:
    """Tensors of 2 MiB lie between small ones that stay; freed in the block, they leave the process without a further call."""
    program = """
import torch
from pathlib import Path
from fedwarm.diffusion.offload import apart

def resident():
    return int(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS")).split()[1])

first = torch.ones(6 << 20)
del first  # after this glibc's heap would take all up to 24 MiB
with apart():
    before, large, small = resident(), [], []
    for _ in range(100):
        large.append(torch.ones(1 << 19))
        small.append(torch.ones(1 << 10))
    full = resident()
    large.clear()
    print(full - before, resident() - before)
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    full, left = map(int, told.split())
    assert full > 200 * 1024 and left < 0.1 * full

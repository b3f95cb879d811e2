"""The cache: exact bytes, private, bounded, and noise that comes back from its seed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from torch.autograd.profiler import profile

from fedwarm.core.seeds import generator
from fedwarm.diffusion.rows import Rows
from fedwarm.diffusion.tuners.hollowed.cache import Draws, check_room, draw_tuples, private_folder
from fedwarm.settings.fields import SettingError


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_file_of_rows_is_a_safetensors_file_of_exactly_so_many_bytes(tmp_path: Path, dtype: torch.dtype) -> None:
    numbers = torch.randn(7, 3, 2, 2, generator=generator(0, "rows"))
    rows = Rows(tmp_path / "x.safetensors", "core", 7, (3, 2, 2), dtype)
    for part in numbers.split(3):
        rows.append(part)
    assert rows.data_bytes == 7 * 12 * dtype.itemsize
    assert (tmp_path / "x.safetensors").stat().st_size == rows.header_bytes + rows.data_bytes
    assert (tmp_path / "x.safetensors").stat().st_mode & 0o777 == 0o600
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("core"), numbers.to(dtype))
    read = rows.read([5, 0, 5])
    assert read.dtype == dtype and torch.equal(read, numbers.to(dtype)[[5, 0, 5]])


def test_rows_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "x", "core", 2, (3,), torch.float16, remedy="set hollowed.cache-dtype = 'float32'")
    with pytest.raises(ValueError, match="do not fit"):
        rows.append(torch.zeros(1, 4))
    with pytest.raises(ValueError, match="do not fit"):
        rows.append(torch.zeros(3, 3))
    rows.append(torch.zeros(1, 3))
    for row in (1, -1, 2):
        with pytest.raises(IndexError):
            rows.read([row])
    with pytest.raises(FloatingPointError, match="hollowed.cache-dtype = 'float32'"):
        rows.append(torch.full((1, 3), 1e5))
    with pytest.raises(FileExistsError):
        Rows(tmp_path / "x", "core", 2, (3,), torch.float16)


def test_reading_takes_the_memory_of_what_is_read(tmp_path: Path) -> None:
    """All that torch allocates meanwhile, by its profiler, and all that Python does."""
    rows = Rows(tmp_path / "x", "core", 64, (1000,), torch.float32)
    rows.append(torch.zeros(64, 1000))
    tracemalloc.start()
    with profile(profile_memory=True) as trace:
        read = rows.read([3, 60])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert trace.kineto_results is not None
    taken = [event.nbytes() for event in trace.kineto_results.events() if event.name() == "[memory]" and event.nbytes() > 0]
    assert taken == [8000] == [read.numel() * 4] and peak < 500_000


def test_draws_follow_the_law_of_plain_tuning() -> None:
    labels = torch.tensor([2, 0, 1, 1])
    draws = draw_tuples(labels, 20_000, 4, 1000, generator(0, "draws"))
    again = draw_tuples(labels, 20_000, 4, 1000, generator(0, "draws"))
    assert all(torch.equal(vars(draws)[name], vars(again)[name]) for name in vars(draws))
    told = draws.captions != 3
    assert torch.equal(draws.captions[told], labels[draws.images[told]])
    assert 0.09 < 1 - told.float().mean() < 0.11
    assert (draws.images.bincount() - 5000).abs().max() < 300
    assert draws.time_steps.min() == 0 and draws.time_steps.max() == 999
    assert abs(draws.time_steps.float().mean() - 499.5) < 10
    assert len(draws.seeds.unique()) == 20_000


@pytest.mark.long
def test_noise_is_its_seeds_bits_in_any_process(tmp_path: Path) -> None:
    draws = draw_tuples(torch.zeros(1, dtype=torch.int64), 5, 2, 10, generator(0, "noise"))
    noise = draws.noise(range(5), (4, 8, 8))
    assert noise.shape == (5, 4, 8, 8) and torch.equal(draws.noise([3, 1], (4, 8, 8)), noise[[3, 1]])
    assert abs(noise.mean()) < 0.1 and abs(noise.std() - 1) < 0.1
    draws.save(tmp_path / "draws.safetensors")
    assert (tmp_path / "draws.safetensors").stat().st_mode & 0o777 == 0o600
    code = (
        "import sys, torch; from safetensors.torch import load_file; from fedwarm.diffusion.tuners.hollowed.cache import Draws;"
        "torch.rand(3); noise = Draws(**load_file(sys.argv[1])).noise(range(5), (4, 8, 8)); print(noise.numpy().tobytes().hex())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "draws.safetensors")]
    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[5]).stdout
    assert told.strip() == noise.numpy().tobytes().hex()


def test_noise_is_that_of_the_tuples_own_seed() -> None:
    rows, seeds = torch.zeros(3, dtype=torch.int64), torch.tensor([7, 2**40, 7])
    noise = Draws(rows, rows, rows, seeds).noise([2, 1], (4, 2, 2))
    for drawn, seed in zip(noise, (7, 2**40), strict=True):
        assert torch.equal(drawn, torch.randn(4, 2, 2, generator=torch.Generator().manual_seed(seed)))


def test_extreme_seeds_draw() -> None:
    ends = torch.tensor([0, 2**63 - 1])
    noise = Draws(ends, ends, ends, ends).noise([0, 1], (2,))
    assert torch.isfinite(noise).all() and not torch.equal(noise[0], noise[1])


@pytest.mark.parametrize("given", [True, False])
def test_the_folder_is_private_and_goes_unless_the_process_ends(tmp_path: Path, given: bool) -> None:
    for error in (None, KeyboardInterrupt, ValueError):
        try:
            with private_folder(tmp_path / "a" / "b" if given else None, "hollowed-3", False) as folder:
                assert folder.stat().st_mode & 0o777 == 0o700 and folder.name.startswith("hollowed-3")
                (folder / "x").write_text("secret")
                if error:
                    raise error
        except (KeyboardInterrupt, ValueError):
            pass
        assert folder.exists() == (given and error is KeyboardInterrupt), "a run that was ended goes on with it"


def test_what_a_killed_process_left_is_found(tmp_path: Path) -> None:
    (tmp_path / "hollowed-3").mkdir()
    (tmp_path / "hollowed-3" / "core.safetensors").write_text("old")
    (tmp_path / "hollowed-4").mkdir()
    with private_folder(tmp_path, "hollowed-3", False) as folder:
        assert (folder / "core.safetensors").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["hollowed-4"]


def test_rows_that_were_settled_are_gone_on_with(tmp_path: Path) -> None:
    numbers, path = torch.randn(7, 3, generator=generator(0, "rows")), tmp_path / "x.safetensors"

    def begun(mark: str = "a", count: int = 7) -> Rows:
        return Rows(path, "core", count, (3,), torch.float32, mark)

    first = begun()
    first.append(numbers[:4])
    first.settle()
    first.append(numbers[4:6])  # lost with the process
    again = begun()
    assert again.written == 4 and path.stat().st_size == again.header_bytes + 4 * again.row_bytes
    assert torch.equal(again.read(range(4)), numbers[:4])
    again.back_to(3)
    again.append(numbers[3:])
    again.keep()
    assert begun().written == 7 and {p.stat().st_mode & 0o777 for p in tmp_path.iterdir()} == {0o600}
    with safe_open(path, "pt") as file:
        assert torch.equal(file.get_tensor("core"), numbers)
    path.write_bytes(path.read_bytes()[:-1])
    assert begun().written == 0, "it is shorter than was settled"
    for other in ({"mark": "b"}, {"count": 8}):
        whole = begun()
        whole.append(numbers)
        whole.settle()
        assert begun(**other).written == 0
    Rows.forget(path)
    assert list(tmp_path.iterdir()) == []


def test_it_is_kept_on_demand_but_not_after_an_error(tmp_path: Path) -> None:
    with private_folder(tmp_path, "kept", True) as folder:
        (folder / "x").write_text("")
    assert (folder / "x").exists() and folder.stat().st_mode & 0o777 == 0o700
    with pytest.raises(ValueError, match="broken"), private_folder(tmp_path, "kept", True):
        raise ValueError("broken")
    assert not folder.exists()


def test_too_small_a_disk_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2_000_000))
    check_room(tmp_path, 1_500_000, 500_000, 10)
    with pytest.raises(SettingError) as caught:
        check_room(tmp_path, 655_360_000, 672_000_000, 1000)
    text = str(caught.value)
    assert "\n" not in text and "1,327 MB" in text and "1,000 tuples: 655 MB" in text and "2 MB are free" in text
    assert "hollowed.tuples" in text and "hollowed.cache-dtype = 'float16'" in text and str(tmp_path) in text

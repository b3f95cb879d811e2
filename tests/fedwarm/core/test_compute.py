"""How torch computes for a while, and as before afterwards."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fedwarm.core import placement
from fedwarm.core.compute import repeatable, torch_threads
from fedwarm.settings.fields import Value
from tests import cards
from tests.runs import run


def modes() -> tuple[bool, bool, bool, int]:
    return (
        torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark, torch.get_num_threads(),
    )  # fmt: skip


def test_algorithms_that_repeat_are_used_for_the_block_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = modes()
    with repeatable(True):
        assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()
        assert not torch.backends.cudnn.benchmark
    assert modes() == before


def test_where_they_are_not_wanted_nothing_changes() -> None:
    before = modes()
    with repeatable(False):
        assert modes() == before


def test_both_are_put_back_after_an_error() -> None:
    before = modes()
    with pytest.raises(ValueError, match="within"), torch_threads(1), repeatable(True):
        raise ValueError("within")
    assert modes() == before


@pytest.mark.parametrize(
    ("device", "deterministic", "repeats"), [("cuda", True, True), ("cuda", False, False), ("cpu", False, True)]
)
def test_a_run_computes_so_on_both_sides_and_says_whether_it_repeats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, deterministic: bool, repeats: bool
) -> None:
    """Cards that stand for GPUs, on which algorithms that repeat are wanted by setting; on a CPU never."""
    wanted: dict[str, set[bool]] = {}

    def noted(side: str) -> Callable[[bool], AbstractContextManager[None]]:
        def block(on: bool) -> AbstractContextManager[None]:
            wanted.setdefault(side, set()).add(on)
            return repeatable(on)

        return block

    for side in ("strategies.server_app", "clients.client_app"):
        monkeypatch.setattr(f"fedwarm.{side}.repeatable", noted(side))
    flat: dict[str, Value] = {
        "device": device, "deterministic": deterministic, "cohort": 0, "num-server-rounds": 1, "local-epochs": 1,
        "data.partition": "iid", "data.max-examples": 4,
    }  # fmt: skip
    before = modes()
    with placement.standing_in(replace(cards.TWO, hears=placement._deaf)):
        told = run("fedavg", tmp_path, flat, clients=2).results["device"]
    on = device == "cuda" and deterministic
    assert wanted == {"strategies.server_app": {on}, "clients.client_app": {on}} and told["repeats"] is repeats
    assert modes() == before


@pytest.mark.gpu
def test_a_sum_over_many_indices_comes_twice_on_a_gpu() -> None:
    values, where = torch.randn(1 << 20, device="cuda"), torch.randint(64, (1 << 20,), device="cuda")
    with repeatable(True):
        first, second = (torch.zeros(64, device="cuda").index_add_(0, where, values) for _ in range(2))
    assert torch.equal(first, second)

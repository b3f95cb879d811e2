"""How torch computes for a while, and as before afterwards."""

from __future__ import annotations

import pytest
import torch

from fedwarm.core.compute import repeatable, torch_threads


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


@pytest.mark.gpu
def test_a_sum_over_many_indices_comes_twice_on_a_gpu() -> None:
    values, where = torch.randn(1 << 20, device="cuda"), torch.randint(64, (1 << 20,), device="cuda")
    with repeatable(True):
        first, second = (torch.zeros(64, device="cuda").index_add_(0, where, values) for _ in range(2))
    assert torch.equal(first, second)

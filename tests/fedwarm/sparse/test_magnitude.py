"""Pruning by magnitude, of weights and of units, and the accuracy by density that a run measures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fedwarm.core.arrays import from_module
from fedwarm.launch.preflight import check_run
from fedwarm.models import Model, build_model
from fedwarm.settings.fields import SettingError
from fedwarm.sparse.groups import Groups
from fedwarm.sparse.magnitude import by_unit, by_weight, density_of
from fedwarm.sparse.shrink import kept_of, shrunk
from tests.runs import run


def test_the_largest_weights_are_left() -> None:
    arrays = from_module(build_model(Model(name="lenet5"), 10, 16, 0))
    pruned = by_weight(arrays, 0.1)
    assert density_of(pruned) == pytest.approx(0.1, abs=1e-3)
    weights = [n for n, a in arrays.items() if a.ndim > 1]
    left = np.concatenate([np.abs(pruned[n]).ravel() for n in weights])
    gone = np.concatenate([np.abs(arrays[n][pruned[n] == 0]) for n in weights])
    assert left[left > 0].min() >= gone.max()
    assert all((pruned[n] == a).all() for n, a in arrays.items() if a.ndim == 1)


def test_whole_units_go() -> None:
    """As many that the network without them has at most that share of the numbers."""
    model = build_model(Model(name="lenet5"), 10, 16, 0)
    arrays = from_module(model)
    pruned = by_unit(Groups.of(model), arrays, 0.2)
    model.load_state_dict({n: torch.from_numpy(np.array(a)) for n, a in pruned.items()})
    small = shrunk(model, kept_of(model))
    assert 0.15 * 15926 < sum(p.numel() for p in small.parameters()) <= 0.2 * 15926


@pytest.mark.parametrize("by", ["unit", "weight"])
def test_a_run_measures_its_pruned_model(by: str, tmp_path: Path) -> None:
    outcome = run("fedavg", tmp_path / "run", {
        "num-server-rounds": 1, "local-epochs": 1, "data.max-examples": 24, "data.image-size": 8, "model.name": "logistic",
        "prune.densities": "1,0.5", "prune.by": by,
    })  # fmt: skip
    found, final = outcome.results["measures"]["pruned"], outcome.results["final"]["global"]["accuracy"]
    assert found["1"] == final and 0 <= found["0.5"] <= 1


@pytest.mark.parametrize("text", ["0.5,x", "0", "1.5"])
def test_densities_are_shares(text: str) -> None:
    with pytest.raises(SettingError, match=r"prune\.densities = .* must be shares above 0"):
        check_run({"method": "fedavg", "prune.densities": text}, 4)

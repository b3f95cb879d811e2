"""The step size falls from round to round by `learning-rate-decay`, in clients' steps and in what is worked out of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedwarm.catalogue import parse
from fedwarm.flower.wire import from_records
from fedwarm.settings.fields import Value
from fedwarm.training.plan import rate_of
from tests.runs import Outcome, run, same

SETTINGS: dict[str, Value] = {
    "num-server-rounds": 2, "local-epochs": 1, "batch-size": 400, "momentum": 0.0, "learning-rate": 0.1, "data.max-examples": 40,
    "data.image-size": 16, "model.name": "logistic",
}  # fmt: skip


def test_a_rounds_step_size() -> None:
    given = parse({"learning-rate": 0.1, "learning-rate-decay": 0.5}).run
    assert [rate_of(given, number) for number in (0, 1, 2, 4)] == pytest.approx([0.1, 0.1, 0.05, 0.0125])


def test_the_second_round_moves_half_as_far(tmp_path: Path) -> None:
    """One step a round from the same weights: the first round is the same, the second goes the same way half as far."""
    first = run("fedavg", tmp_path / "first", {**SETTINGS, "num-server-rounds": 1})
    plain, halved = (run("fedavg", tmp_path / f"{decay}", {**SETTINGS, "learning-rate-decay": decay}) for decay in (1.0, 0.5))
    assert not same(plain.model, halved.model)
    for name, start in first.model.items():
        np.testing.assert_allclose(halved.model[name] - start, (plain.model[name] - start) / 2, atol=1e-6)


def directions(outcome: Outcome) -> list[np.ndarray[Any, Any]]:
    """What the messages of the last round tell beside the model."""
    arrays = from_records(outcome.asked("round")[-1].content).arrays
    model = outcome.model
    return [arrays[name] for name in sorted(arrays) if name not in model]


@pytest.mark.parametrize("method", ["scaffold", "fedavg_m"])
def test_directions_do_not_shrink_with_the_steps(tmp_path: Path, method: str) -> None:
    """A direction is a way over its length in steps: the third round's, which the second ended in, is the same at any decay."""
    three: dict[str, Value] = {**SETTINGS, "num-server-rounds": 3}
    plain, halved = (run(method, tmp_path / f"{decay}", {**three, "learning-rate-decay": decay}) for decay in (1.0, 0.5))
    pairs = list(zip(directions(plain), directions(halved), strict=True))
    assert pairs and not same(plain.model, halved.model)
    for ours, theirs in pairs:
        assert np.abs(ours).max() > 1e-3
        np.testing.assert_allclose(ours, theirs, atol=1e-5)

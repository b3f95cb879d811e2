"""What clients begin to learn beside the weights is no change of what was there, and is not measured by changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedwarm.core.arrays import Arrays
from fedwarm.core.payload import PayloadError
from fedwarm.rounds.lengths import checked_length
from fedwarm.settings.fields import Value
from tests.runs import run

MODEL: Arrays = {"w": np.ones(100, np.float32)}
LEARNED: Arrays = {"quantizer/w.log_step": np.full(1, -5, np.float32)}


def moved(by: float) -> Arrays:
    return {"w": np.full(100, 1 + by, np.float32)}


def test_the_first_of_what_is_learned_is_compared_with_the_model_alone() -> None:
    zero: Arrays = {name: np.zeros_like(array) for name, array in LEARNED.items()}
    assert checked_length(moved(2**-10), MODEL, MODEL, [0.01], 100) == 10 * 2**-10
    assert checked_length({**moved(0), **LEARNED}, {**MODEL, **zero}, MODEL, [1e-3], 100) == 0
    both = {**MODEL, **LEARNED}
    with pytest.raises(PayloadError, match="has norm 5"):
        checked_length({**MODEL, **zero}, both, both, [1e-3], 100)
    for wrong in (np.inf, np.nan, 1e6):
        spoilt: Arrays = {"quantizer/w.log_step": np.full(1, wrong, np.float32)}
        with pytest.raises(PayloadError, match=r"robust\.limit"):
            checked_length({**moved(0), **spoilt}, {**MODEL, **zero}, MODEL, [1e-3], 100)


def test_an_objective_begins_after_rounds_of_small_steps(tmp_path: Path) -> None:
    small: dict[str, Value] = {
        "num-server-rounds": 2, "local-epochs": 1, "data.max-examples": 8, "data.image-size": 16, "model.name": "cnn",
        "learning-rate": 1e-5, "objective": "qat", "quantization-robust.range": "learned", "quantization-robust.start-round": 2,
    }  # fmt: skip
    outcome = run("fedavg", tmp_path, small, clients=2)
    assert outcome.results["complete"] and any(name.startswith("quantizer/") for name in outcome.model)

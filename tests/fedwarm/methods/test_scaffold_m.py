"""SCAFFOLD-M: its control variates are mean gradients, whatever the direction does; its limit and what it sends."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fedwarm.core.told import split
from fedwarm.flower.wire import from_records
from fedwarm.methods.scaffold import CONTROL, ControlVariate, control_after
from fedwarm.methods.scaffold_m import unmixed
from fedwarm.settings.fields import Value
from fedwarm.training.directions import DIRECTION, Mixed
from tests.runs import run, same

SMALL: dict[str, Value] = {
    "num-server-rounds": 3, "local-epochs": 1, "data.max-examples": 40, "data.image-size": 16, "learning-rate": 0.05,
    "momentum": 0.0,
}  # fmt: skip


def test_the_new_control_is_the_mean_of_the_raw_gradients() -> None:
    draws, beta, rate, steps = torch.Generator().manual_seed(0), 0.2, 0.1, 7
    start, own, shared, direction = (torch.randn(5, generator=draws, dtype=torch.float64) for _ in range(4))
    model, raw = nn.ParameterDict({"x": start.clone()}), []
    hooks = [ControlVariate({"x": shared - own}), Mixed(beta, {"x": direction})]
    for _ in range(steps):
        raw.append(torch.randn(5, generator=draws, dtype=torch.float64) + model.x.detach())
        model.x.grad = raw[-1].clone()
        for hook in hooks:
            hook.gradient(model)
        model.x.data -= rate * model.x.grad
    ends = unmixed({"x": start}, {"x": model.x.detach()}, {"x": direction}, rate * steps, beta)
    found = control_after({"x": own}, {"x": shared}, {"x": start}, ends, rate * steps)["x"]
    torch.testing.assert_close(found, torch.stack(raw).mean(0), rtol=1e-9, atol=1e-9)


def test_the_shared_control_is_the_mean_of_everybodys(tmp_path: Path) -> None:
    """And three times the model goes down, twice up; it goes on over a resume."""
    outcome = run("scaffold_m", tmp_path / "run", SMALL)
    sent = [split(split(from_records(m.content).arrays, DIRECTION)[0], CONTROL)[1] for m in outcome.asked("round")]
    replies = [split(from_records(r.content).arrays, CONTROL)[1] for r in outcome.answered("round")]
    own = [{name: np.zeros_like(a) for name, a in sent[0].items()} for _ in range(4)]
    for number in (0, 1):
        for client in range(4):
            for name, shared in sent[4 * number].items():
                own[client][name] = own[client][name] + replies[4 * number + client][name] - shared
        for name, shared in sent[4 * number + 4].items():
            np.testing.assert_allclose(shared, np.mean([c[name] for c in own], axis=0), atol=2e-5)
    totals = outcome.results["totals"]
    assert totals["bytes_down"] == pytest.approx(1.5 * totals["bytes_up"], rel=0.02)
    run("scaffold_m", tmp_path / "other", {**SMALL, "num-server-rounds": 2})
    assert same(run("scaffold_m", tmp_path / "other", {**SMALL, "resume": True}).model, outcome.model)


def test_beta_one_is_scaffold_bit_for_bit(tmp_path: Path) -> None:
    ours = run("scaffold_m", tmp_path / "ours", {**SMALL, "scaffold-m.beta": 1.0})
    assert same(ours.model, run("scaffold", tmp_path / "plain", SMALL).model)

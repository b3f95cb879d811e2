"""FedAvg-M: closed forms on quadratics, its limits, and what it sends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fedwarm.catalogue import parse
from fedwarm.core.payload import Payload, PayloadError
from fedwarm.core.stages import Stage
from fedwarm.core.told import split
from fedwarm.flower.wire import from_records
from fedwarm.launch.preflight import check_run
from fedwarm.settings.fields import SettingError, Value
from fedwarm.training.directions import DIRECTION, Mixed
from strategies.fedavg_m import FedAvgM
from tests.runs import Outcome, run, same

SMALL: dict[str, Value] = {"num-server-rounds": 3, "local-epochs": 1, "data.max-examples": 40, "data.image-size": 16}
EVEN: dict[str, Value] = {**SMALL, "momentum": 0.0, "learning-rate": 0.05, "data.partition": "iid"}


class Quadratics:
    """Clients with the losses h (x - a)^2 / 2, in float64, under the method's own server and step."""

    def __init__(self, curvatures: Sequence[float], centres: Sequence[float], rate: float, steps: int, beta: float) -> None:
        self.server = FedAvgM(learning_rate=rate, momentum=0.0, fedavg_m__beta=beta)
        self.losses, self.rate, self.steps, self.beta = [*zip(curvatures, centres, strict=True)], rate, steps, beta
        self.server.arrays = {"x": np.ones(1)}

    def local(self, curvature: float, centre: float) -> float:
        model = nn.ParameterDict({"x": torch.from_numpy(self.server.arrays["x"].copy())})
        hook = Mixed(self.beta, {"x": torch.from_numpy(self.server.direction["x"])})
        for _ in range(self.steps):
            model.x.grad = curvature * (model.x.detach() - centre)
            hook.gradient(model)
            model.x.data -= self.rate * model.x.grad
        return model.x.item()

    def round(self, number: int) -> float:
        """x after a round."""
        stage = Stage(number, "round", "train", tuple(range(len(self.losses))))
        self.server.begin(stage)
        for client, (curvature, centre) in enumerate(self.losses):
            arrays = {"x": np.array([self.local(curvature, centre)])}
            self.server.absorb(stage, client, Payload("weights", arrays, {"num-examples": 1 + client, "steps": self.steps}))
        self.server.finish(stage)
        return float(self.server.arrays["x"][0])


def test_one_quadratic_by_hand() -> None:
    made = Quadratics([1.0], [0.0], 0.5, 1, 0.1)
    found = [(made.round(number), made.server.direction["x"].item()) for number in (1, 2, 3)]
    np.testing.assert_allclose(found, [(0.95, 0.1), (0.8575, 0.185), (0.731375, 0.25225)], rtol=1e-12)


@pytest.mark.parametrize("decay", [0.01, 0.1])
def test_weight_decay_is_a_part_of_the_loss(decay: float) -> None:
    """(x - 1)^2 / 2 + d x^2 / 2 has its least at 1 / (1 + d), with torch's own SGD, whatever beta is."""
    server = FedAvgM(learning_rate=0.1, momentum=0.0, weight_decay=decay)
    server.arrays = {"x": np.ones(1)}
    for number in range(1, 400):
        stage, model = Stage(number, "round", "train", (0,)), nn.ParameterDict({"x": torch.from_numpy(server.arrays["x"].copy())})
        server.begin(stage)
        optimiser = torch.optim.SGD([model.x], 0.1, weight_decay=decay)
        hook = Mixed(0.1, {"x": torch.from_numpy(server.direction["x"])}, decay)
        for _ in range(3):
            model.x.grad = model.x.detach() - 1
            hook.gradient(model)
            optimiser.step()
        server.absorb(stage, 0, Payload("weights", {"x": model.x.detach().numpy()}, {"num-examples": 1, "steps": 3}))
        server.finish(stage)
    assert server.arrays["x"][0] == pytest.approx(1 / (1 + decay), abs=1e-3)


def test_one_step_of_everybody_is_heavy_ball_descent() -> None:
    """x <- x - eta v, v <- beta times the mean gradient + (1 - beta) v."""
    curvatures, centres, rate, beta = [1.0, 4.0, 0.3], [1.0, -1.0, 5.0], 0.1, 0.3
    made, x, v = Quadratics(curvatures, centres, rate, 1, beta), 1.0, 0.0
    for number in range(1, 20):
        v = beta * float(np.mean([h * (x - a) for h, a in zip(curvatures, centres, strict=True)])) + (1 - beta) * v
        x -= rate * v
        assert made.round(number) == pytest.approx(x, rel=1e-12)


@pytest.mark.parametrize(("beta", "end"), [(1.0, -0.208252), (0.5, -0.379757), (0.1, -0.556076)])
def test_where_unlike_clients_come_to_rest(beta: float, end: float) -> None:
    """sum s_k a_k / sum s_k with s_k = 1 - (1 - eta beta h_k)^K; the least of the global loss is at -0.6."""
    made = Quadratics([1.0, 4.0], [1.0, -1.0], 0.1, 10, beta)
    shares = [1 - (1 - 0.1 * beta * h) ** 10 for h in (1.0, 4.0)]
    for number in range(1, 200):
        last = made.round(number)
    assert last == pytest.approx((shares[0] - shares[1]) / sum(shares), rel=1e-9) == pytest.approx(end, abs=1e-6)


def test_clients_with_more_steps_count_the_same_in_the_direction() -> None:
    server = FedAvgM(learning_rate=0.5, momentum=0.0)
    server.arrays = {"x": np.zeros(1)}
    stage = Stage(1, "round", "train", (0, 1))
    server.begin(stage)
    for client, (end, steps) in enumerate([(-1.0, 1), (-4.0, 4)]):
        server.absorb(stage, client, Payload("weights", {"x": np.array([end])}, {"num-examples": 9, "steps": steps}))
    server.finish(stage)
    assert server.arrays["x"].item() == -2.5 and server.direction["x"].item() == 2.0


def test_steps_that_cannot_be_are_refused() -> None:
    payload = Payload("weights", {}, {"num-examples": 1, "steps": 0})
    with pytest.raises(PayloadError, match="'steps' is 0"):
        FedAvgM().check(Stage(1, "round", "train", (0,)), payload)


def test_beta_one_is_fedavg_bit_for_bit(tmp_path: Path) -> None:
    ours = run("fedavg_m", tmp_path / "ours", {**EVEN, "fedavg-m.beta": 1.0})
    plain = run("fedavg", tmp_path / "plain", EVEN)
    assert same(ours.model, plain.model)
    assert ours.results["totals"]["bytes_down"] == plain.results["totals"]["bytes_down"]


def told(outcome: Outcome) -> list[dict[str, np.ndarray]]:
    return [split(from_records(m.content).arrays, DIRECTION)[1] for m in outcome.asked("round")]


def test_a_plain_first_round_is_fedavgs(tmp_path: Path) -> None:
    one: dict[str, Value] = {**EVEN, "num-server-rounds": 1}
    ours, plain = run("fedavg_m", tmp_path / "ours", {**one, "fedavg-m.first": "plain"}), run("fedavg", tmp_path / "plain", one)
    assert same(ours.model, plain.model) and not any(told(ours))


def test_the_direction_is_how_the_model_moved(tmp_path: Path) -> None:
    """Clients take as many steps, so g eta K is the way of their mean; it doubles what goes down, and goes on over a resume."""
    settings: dict[str, Value] = {**SMALL, "learning-rate": 0.05}
    outcome = run("fedavg_m", tmp_path / "run", settings)
    sent = [from_records(m.content).arrays for m in outcome.asked("round")][::4]
    directions = told(outcome)[::4]
    assert not any(array.any() for array in directions[0].values())
    for number in (0, 1):
        for name, direction in directions[number + 1].items():
            np.testing.assert_allclose(direction, (sent[number][name] - sent[number + 1][name]) / (2 * 0.05), atol=2e-5)
    totals = outcome.results["totals"]
    assert totals["bytes_down"] == pytest.approx(2 * totals["bytes_up"], rel=0.02)
    run("fedavg_m", tmp_path / "other", {**settings, "num-server-rounds": 2})
    resumed = run("fedavg_m", tmp_path / "other", {**settings, "resume": True})
    assert same(resumed.model, outcome.model)


def test_presets_and_refusals() -> None:
    config = parse({"method": "fedavg_m"})
    assert config.run.momentum == 0 and config.run.learning_rate == 0.1
    with pytest.raises(SettingError, match=r"momentum = 0.5 cannot be used with method 'fedavg_m'"):
        check_run({"method": "fedavg_m", "momentum": 0.5}, 4)


@pytest.mark.parametrize("method", ["fedavg_m", "scaffold_m"])
def test_a_codec_that_hides_what_clients_hold_is_refused(method: str) -> None:
    with pytest.raises(
        SettingError,
        match="tells the server how many steps a client takes.* codec = 'dp-rec' hides that: use another codec or another method",
    ):
        check_run({"method": method, "codec": "dp-rec"}, 4)


@pytest.mark.parametrize("rule", ["mean", "median"])
def test_the_direction_is_that_of_the_clipped_models(rule: str) -> None:
    """So it is how the global model moved, where clients take as many steps, whatever the length to which they are clipped."""
    server = FedAvgM(learning_rate=0.1, robust__rule=rule, robust__clip_norm=0.5)
    server.arrays = {"x": np.zeros(2), "y": np.ones(1)}
    stage = Stage(1, "round", "train", (0, 1, 2))
    server.begin(stage)
    for client, far in enumerate((0.3, 3.0, -6.0)):
        ends = {"x": np.full(2, far), "y": np.ones(1) + far / 2}
        server.absorb(stage, client, Payload("weights", ends, {"num-examples": 9, "steps": 4}))
    server.finish(stage)
    for name, start in (("x", np.zeros(2)), ("y", np.ones(1))):
        np.testing.assert_allclose(server.direction[name], (start - server.arrays[name]) / (0.1 * 4), rtol=1e-12)

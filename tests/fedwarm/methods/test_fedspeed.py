"""FedSpeed: closed forms on quadratics, its limits, the drifts that clients keep and what they send."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn

from fedwarm.catalogue import parse
from fedwarm.core.arrays import Arrays
from fedwarm.flower.wire import from_records
from fedwarm.launch.preflight import check_run
from fedwarm.methods.fedspeed import FedSpeed, Speed
from fedwarm.objectives import is_learned
from fedwarm.settings.fields import SettingError, Value
from tests.runs import Outcome, run, same

SMALL: dict[str, Value] = {"num-server-rounds": 3, "local-epochs": 1, "data.max-examples": 40, "data.image-size": 16}
EVEN: dict[str, Value] = {
    **SMALL, "momentum": 0.0, "learning-rate": 0.05, "learning-rate-decay": 1.0, "weight-decay": 0.0, "data.partition": "iid",
}  # fmt: skip
PLAIN: dict[str, Value] = {"fedspeed.correction": False, "fedspeed.rho": 0.0, "fedspeed.clip": 0.0}


def stepped(hook: Speed, centre: Tensor, start: Tensor, curvature: float, rate: float, steps: int) -> tuple[Tensor, int]:
    """Where steps on curvature ||x - centre||^2 / 2 lead, and how often its gradient was taken."""
    model, taken = nn.ParameterDict({"x": start.clone()}), 0

    def take() -> Tensor:
        nonlocal taken
        taken += 1
        model.x.grad = curvature * (model.x.detach() - centre)
        return torch.zeros(())

    hook.prepare(model)
    for _ in range(steps):
        take()
        hook.again(model, take)
        hook.gradient(model)
        model.x.data -= rate * model.x.grad
    return model.x.detach(), taken


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_first_step_by_hand(alpha: float) -> None:
    """-eta g (1 + alpha rho / (||g|| + 1e-7)), by two gradients."""
    start, centre = torch.tensor([3.0, 4.0], dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    hook = Speed(FedSpeed(rho=0.5, alpha=alpha, clip=0.0), {})
    end, taken = stepped(hook, centre, start, 1.0, 0.1, 1)
    torch.testing.assert_close(end, start - 0.1 * start * (1 + alpha * 0.5 / (5 + 1e-7)))
    assert taken == 2


def test_a_long_gradient_is_clipped() -> None:
    start = torch.tensor([30.0, 40.0], dtype=torch.float64)
    end, taken = stepped(Speed(FedSpeed(rho=0.0, clip=10.0), {}), torch.zeros(2, dtype=torch.float64), start, 1.0, 1.0, 1)
    torch.testing.assert_close(end, torch.tensor([24.0, 32.0], dtype=torch.float64), rtol=1e-6, atol=1e-6)
    assert taken == 1


def rest(correction: bool, penalty: float, rounds: int) -> tuple[float, list[float]]:
    """Where two unlike quadratics come to rest under FedSpeed without ascent, and their drifts."""
    losses, x, drifts = [(1.0, 1.0), (4.0, -1.0)], torch.ones(1, dtype=torch.float64), [torch.zeros(1, dtype=torch.float64)] * 2
    for _ in range(rounds):
        ends = []
        for k, (curvature, centre) in enumerate(losses):
            hook = Speed(FedSpeed(penalty=penalty, rho=0.0, clip=0.0), {"x": drifts[k]} if correction else {})
            end, _ = stepped(hook, torch.full((1,), centre, dtype=torch.float64), x, curvature, 0.1, 10)
            drifts[k] = drifts[k] + end - x if correction else drifts[k]
            ends.append(end + drifts[k])
        x = torch.stack(ends).mean(0)
    return x.item(), [d.item() for d in drifts]


@pytest.mark.parametrize(("penalty", "rounds"), [(1.0, 60), (0.3, 300)])
def test_the_correction_leads_to_the_least_of_the_global_loss(penalty: float, rounds: int) -> None:
    """At -0.6, where each drift is the client's own gradient over -lambda_c."""
    end, drifts = rest(True, penalty, rounds)
    assert end == pytest.approx(-0.6, abs=1e-9)
    np.testing.assert_allclose([penalty * d for d in drifts], [1.6, -1.6], atol=1e-8)
    assert abs(rest(False, penalty, rounds)[0] + 0.6) > 0.01


def arrays_of(outcome: Outcome, sent: bool) -> list[Arrays]:
    return [from_records(m.content).arrays for m in (outcome.asked("round") if sent else outcome.answered("round"))]


def test_without_correction_and_terms_it_is_fedavg_bit_for_bit(tmp_path: Path) -> None:
    ours = run("fedspeed", tmp_path / "ours", {**EVEN, **PLAIN, "fedspeed.penalty": 0.0})
    assert same(ours.model, run("fedavg", tmp_path / "plain", EVEN).model)


def test_without_correction_and_ascent_it_is_fedprox(tmp_path: Path) -> None:
    ours = run("fedspeed", tmp_path / "ours", {**EVEN, **PLAIN, "fedspeed.penalty": 0.5})
    plain = run("fedprox", tmp_path / "plain", {**EVEN, "fedprox.mu": 0.5})
    assert same(ours.model, plain.model)


def test_the_first_round_goes_twice_as_far(tmp_path: Path) -> None:
    """x + 2 mean (x_k - x), where every client takes part, in either of the server's ways."""
    one: dict[str, Value] = {**EVEN, "num-server-rounds": 1, "fedspeed.rho": 0.0, "fedspeed.clip": 0.0, "fedspeed.penalty": 0.0}
    fedavg = run("fedavg", tmp_path / "fedavg", {**EVEN, "num-server-rounds": 1})
    start = arrays_of(fedavg, sent=True)[0]
    for way in ("sent", "memory"):
        outcome = run("fedspeed", tmp_path / way, {**one, "fedspeed.server": way})
        for name, array in outcome.model.items():
            np.testing.assert_allclose(array, 2 * fedavg.model[name] - start[name], atol=1e-6)


@pytest.mark.parametrize("way", ["sent", "memory"])
def test_drifts_are_sums_of_the_own_ways(tmp_path: Path, way: str) -> None:
    """Of the rounds that a client took part in; uploads are as large as FedAvg's, and a resumed run ends in the same model."""
    settings: dict[str, Value] = {**SMALL, "learning-rate": 0.05, "fraction-train": 0.5, "fedspeed.server": way}
    outcome = run("fedspeed", tmp_path / "run", settings)
    sent, replies = arrays_of(outcome, sent=True), arrays_of(outcome, sent=False)
    cohorts = [
        [int(line["client"]) for line in outcome.ledger if line.get("stage") == "round" and line["round"] == n] for n in (1, 2, 3)
    ]
    drifts: dict[int, Arrays] = {}
    for number, cohort in enumerate(cohorts):
        for place, k in enumerate(cohort):
            before, reply, old = sent[2 * number + place], replies[2 * number + place], drifts.get(k, {})
            own = {name: old.get(name, 0.0) - start for name, start in before.items()}
            ends = reply if way == "memory" else {name: (reply[name] - own[name]) / 2 for name in before}
            drifts[k] = {name: own[name] + ends[name] for name in before}
            kept = load_file(next((tmp_path / "run" / "clients").glob(f"*/{k}/drift.{number + 1}.safetensors")))
            for name, array in kept.items():
                np.testing.assert_allclose(array, drifts[k][name], atol=1e-6)
        after = sent[2 * number + 2] if number < 2 else outcome.model
        memory = {name: sum(d[name] for d in drifts.values()) / 4 if way == "memory" else 0.0 for name in after}
        for name, array in after.items():
            mean = (replies[2 * number][name] + replies[2 * number + 1][name]) / 2
            np.testing.assert_allclose(array, mean + memory[name], atol=1e-6)
    totals = outcome.results["totals"]
    assert totals["bytes_up"] == totals["bytes_down"]
    run("fedspeed", tmp_path / "other", {**settings, "num-server-rounds": 2})
    assert same(run("fedspeed", tmp_path / "other", {**settings, "resume": True}).model, outcome.model)


def test_private_training_is_refused() -> None:
    with pytest.raises(SettingError, match="takes each step's gradient twice"):
        check_run({"method": "fedspeed", "privacy": "dp-sgd"}, 4)


def test_presets_and_refusals() -> None:
    config = parse({"method": "fedspeed"})
    assert config.run.momentum == 0 and config.run.learning_rate == 0.1
    with pytest.raises(SettingError, match=r"momentum = 0.5 cannot be used with method 'fedspeed'"):
        check_run({"method": "fedspeed", "momentum": 0.5}, 4)


def test_what_an_objective_learns_has_no_drift(tmp_path: Path) -> None:
    """Steps of quantizers are not corrected, so that what is sent of them is what was learned."""
    settings: dict[str, Value] = {**SMALL, "objective": "qat", "quantization-robust.range": "learned", "learning-rate": 0.05}
    outcome = run("fedspeed", tmp_path / "run", settings)
    kept = load_file(next((tmp_path / "run" / "clients").glob("*/0/drift.3.safetensors")))
    replies = arrays_of(outcome, sent=False)
    learned = [name for name in replies[0] if is_learned(name)]
    assert learned and kept and not [name for name in kept if is_learned(name)]
    for name in learned:
        np.testing.assert_allclose(outcome.model[name], np.mean([each[name] for each in replies[-4:]], axis=0), atol=1e-6)


TINY: dict[str, Value] = {**SMALL, "num-server-rounds": 4, "data.image-size": 8, "model.name": "logistic", "min-replies": 1}


@pytest.mark.parametrize("way", ["sent", "memory"])
def test_a_lost_reply_is_as_if_the_client_had_not_been_asked(way: str, tmp_path: Path) -> None:
    settings: dict[str, Value] = {**TINY, "learning-rate": 0.05, "fedspeed.server": way, "faults.rate": 0.4}
    late, never = (run("fedspeed", tmp_path / kind, {**settings, "faults.kind": kind}) for kind in ("nan", "crash"))
    assert 0 < sum(bool(line["failure"]) for line in late.ledger) < 16
    assert same(late.model, never.model)


@pytest.mark.parametrize(
    "more",
    [{"codec": "stochastic-rounding", "stochastic-rounding.bits": 3}, {"robust.clip-norm": 0.05}],
    ids=["rounded", "clipped"],
)
def test_what_the_server_remembers_is_the_mean_of_what_clients_keep(more: dict[str, Value], tmp_path: Path) -> None:
    """Whatever a codec or clipping makes of their weights on the way."""
    run("fedspeed", tmp_path / "run", {**TINY, "learning-rate": 0.05, "fedspeed.server": "memory", **more})
    shared = load_file(next((tmp_path / "run" / "checkpoint").glob("drift.*.safetensors")))
    own = [load_file(next((tmp_path / "run" / "clients").glob(f"*/{k}/drift.4.safetensors"))) for k in range(4)]
    for name, drift in shared.items():
        mean = np.mean([each[name] for each in own], axis=0)
        assert np.abs(drift).max() > 0 and np.allclose(drift, mean, atol=1e-6 + 1e-4 * np.abs(drift).max())


def test_noise_that_would_be_remembered_for_ever_is_refused() -> None:
    check_run({"method": "fedspeed", "codec": "dp-rec"}, 4)
    with pytest.raises(SettingError, match="codec = 'dp-rec' cannot be used with fedspeed.server = 'memory'"):
        check_run({"method": "fedspeed", "codec": "dp-rec", "fedspeed.server": "memory"}, 4)

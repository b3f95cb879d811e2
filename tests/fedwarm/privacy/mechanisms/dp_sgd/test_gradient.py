"""DP-SGD: gradients of single examples, clip, noise and price, each against something slower or known."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from math import exp, sqrt
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import optimize, stats
from torch import Tensor, nn
from torch.func import functional_call

from fedwarm.core.seeds import generator, initialisation
from fedwarm.models import Model, build_model
from fedwarm.privacy.accountant import Accountant
from fedwarm.privacy.mechanisms.dp_sgd.account import ORDERS, DpSgd, Steps, example_epsilon, noise_of, rate_of
from fedwarm.privacy.mechanisms.dp_sgd.gradient import Mechanism, PrivateGradient, source_of
from fedwarm.privacy.randomness import SYSTEM
from fedwarm.settings.fields import SettingError, checked, keys
from fedwarm.settings.kinds import MODELS
from fedwarm.training.examples import Loss, Singly, at_once, one_by_one
from fedwarm.training.loop import steps_of

DELTA = 1e-5
B, CLASSES = 6, 4
OPACUS_FIRST_LAYER = "ignore:Full backward hook is firing:UserWarning"


def model_of(name: str = "lenet5", size: int = 16) -> nn.Module:
    with initialisation(0, "dp-sgd", name):
        return MODELS.load(name)(CLASSES, size)


def examples_of(count: int = B, size: int = 16, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    draws = generator(0, "dp-sgd-examples")
    return torch.randn(count, 3, size, size, generator=draws, dtype=dtype), torch.randint(CLASSES, (count,), generator=draws)


def loss_of(model: nn.Module) -> Loss:
    return lambda weights, inputs, labels: F.cross_entropy(functional_call(model, weights, (inputs,)), labels)


def slowly(model: nn.Module, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The slow loop: a forward and a backward pass for each example."""
    rows: dict[str, list[Tensor]] = {name: [] for name, _ in model.named_parameters()}
    for i in range(len(labels)):
        model.zero_grad()
        F.cross_entropy(model(inputs[i : i + 1]), labels[i : i + 1]).backward()
        for name, p in model.named_parameters():
            assert p.grad is not None
            rows[name].append(p.grad.clone())
    model.zero_grad()
    return {name: torch.stack(row) for name, row in rows.items()}


def private_gradient(
    model: nn.Module, examples: tuple[Tensor, Tensor], clip: float, noise: float = 0.0, chunk: int = 4, **changes: Any
) -> dict[str, Tensor]:
    """What one step puts into `grad`, times the number of examples expected (1 unless changed)."""
    mechanism = Mechanism(clip, noise, chunk, changes.pop("source", SYSTEM))
    trained = dict(model.named_parameters())
    optimiser = torch.optim.SGD(trained.values(), lr=0.1)
    PrivateGradient(model, optimiser, trained, mechanism, **{"expected": 1.0, **changes})(loss_of(model), examples)
    return {name: p.grad.clone() for name, p in trained.items() if p.grad is not None}


def norm(gradient: Iterable[Tensor]) -> float:
    return sqrt(sum(float(g.double().square().sum()) for g in gradient))


# Gradients


@pytest.mark.parametrize(
    ("name", "singly"),
    [("cnn", at_once), ("lenet5", at_once), ("logistic", at_once), ("resnet18", at_once), ("lenet5", one_by_one)],
)
def test_gradients_are_those_of_one_example_at_a_time(name: str, singly: Singly) -> None:
    """ResNet's in-place residuals are what opacus' own hooks cannot do."""
    model = model_of(name).double()
    inputs, labels = examples_of(2 if name == "resnet18" else B, dtype=torch.float64)
    found = singly(loss_of(model), dict(model.named_parameters()), (inputs, labels))
    wanted = slowly(model, inputs, labels)
    assert found.keys() == wanted.keys()
    for each, gradient in wanted.items():
        torch.testing.assert_close(found[each], gradient, rtol=1e-9, atol=1e-11)


@pytest.mark.filterwarnings(OPACUS_FIRST_LAYER)
@pytest.mark.parametrize("clip", [0.05, 1e6])
def test_a_step_is_that_of_opacus_whole(clip: float) -> None:
    """Opacus' own GradSampleModule and DPOptimizer, where its hooks can do it."""
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer

    model, (inputs, labels) = model_of(), examples_of()
    ours = private_gradient(model, (inputs, labels), clip, expected=5.0)
    wrapped = GradSampleModule(model)
    optimiser = DPOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.0), noise_multiplier=0.0, max_grad_norm=clip, expected_batch_size=5
    )
    F.cross_entropy(wrapped(inputs), labels).backward()
    optimiser.step()
    for name, p in model.named_parameters():
        assert p.grad is not None
        torch.testing.assert_close(ours[name], p.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("chunk", [1, 2, 5, 100])
def test_parts_change_memory_not_the_gradient(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from opacus.optimizers import DPOptimizer

    whole, held = private_gradient(model_of(), examples_of(), 0.1, chunk=B), list[int]()
    real = DPOptimizer.clip_and_accumulate

    def watched(self: Any) -> None:
        held.append(len(self.grad_samples[0]))
        real(self)

    monkeypatch.setattr(DPOptimizer, "clip_and_accumulate", watched)
    parts = private_gradient(model_of(), examples_of(), 0.1, chunk=chunk)
    assert max(held) <= chunk and sum(held) == B
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-4, atol=1e-7)


# Clip


@pytest.mark.parametrize("times", [1.0, 1e3, 1e15])
def test_one_example_moves_the_sum_by_the_clip_at_most(times: float) -> None:
    model, (inputs, labels) = model_of(), examples_of()
    inputs[0] *= times
    clip = 0.01
    without = private_gradient(model, (inputs[1:], labels[1:]), clip, chunk=B)
    with_it = private_gradient(model, (inputs, labels), clip, chunk=B)
    moved = norm(with_it[name] - without[name] for name in without)
    assert moved <= clip * (1 + 1e-5)
    assert moved > 0.99 * clip


def test_a_small_gradient_is_not_touched() -> None:
    model, (inputs, labels) = model_of(), examples_of(1)
    alone = slowly(model, inputs, labels)
    kept = private_gradient(model, (inputs, labels), 2 * norm(alone.values()))
    for name, gradient in alone.items():
        torch.testing.assert_close(kept[name], gradient[0], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("chunk", [1, 4])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_example_that_is_no_number_counts_as_nothing(value: float, chunk: int) -> None:
    model, (inputs, labels) = model_of(), examples_of()
    without = private_gradient(model, (inputs[1:], labels[1:]), 0.1, chunk=chunk)
    inputs[0] = value
    with_it = private_gradient(model, (inputs, labels), 0.1, chunk=chunk)
    assert norm(with_it[name] - without[name] for name in without) <= 0.1
    assert all(torch.isfinite(gradient).all() for gradient in with_it.values())


def test_a_larger_loss_is_divided_again() -> None:
    model, (inputs, labels) = model_of(), examples_of()
    plain = private_gradient(model, (inputs, labels), 0.1)
    trained = dict(model.named_parameters())
    optimiser = torch.optim.SGD(trained.values(), lr=0.1)
    scaled: Loss = lambda *arguments: 1024.0 * loss_of(model)(*arguments)  # noqa: E731
    PrivateGradient(model, optimiser, trained, Mechanism(0.1, 0.0), 1.0, scale=1024.0)(scaled, (inputs, labels))
    for name, p in trained.items():
        assert p.grad is not None
        torch.testing.assert_close(p.grad, plain[name], rtol=1e-4, atol=1e-7)


def test_nothing_is_left_on_the_parameters() -> None:
    model = model_of()
    private_gradient(model, examples_of(), 1.0, 1.0)
    assert not any(hasattr(p, name) for p in model.parameters() for name in ("grad_sample", "summed_grad"))


def test_a_layer_that_keeps_statistics_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 8), nn.BatchNorm1d(8))
    with pytest.raises(SettingError, match="'2', which keeps statistics of examples"):
        private_gradient(model, examples_of(), 1.0)


def test_frozen_statistics_are_none_of_examples() -> None:
    """With them an example's gradient is its own, and the private one is the sum of these where nothing is clipped."""
    model, (inputs, labels) = build_model(Model(name="resnet20", statistics="frozen"), CLASSES, 16, 0).train(), examples_of()
    found = private_gradient(model, (inputs, labels), 1e6)
    wanted = torch.autograd.grad(F.cross_entropy(model(inputs), labels, reduction="sum"), list(model.parameters()))
    for gradient, (name, _) in zip(wanted, model.named_parameters(), strict=True):
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-4)
    with pytest.raises(SettingError, match=r"'bn1', which keeps statistics of examples; .* model.statistics='frozen'"):
        private_gradient(build_model(Model(name="resnet20"), CLASSES, 16, 0), (inputs, labels), 1.0)
    loose = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, CLASSES), nn.BatchNorm1d(CLASSES, track_running_stats=False))
    with pytest.raises(SettingError, match="'2', which keeps statistics"):
        private_gradient(loose, (inputs, labels), 1.0)


# Noise


def test_an_empty_step_is_noise_of_the_stated_scale() -> None:
    """Standard normals after division by z C / expected, unlike in each parameter and step."""
    model, (inputs, labels) = model_of(), examples_of(0)
    clip, noise, expected = 0.3, 1.7, 5.0
    source = source_of(DpSgd(entropy="seeded"), 1, "noise")
    steps = [private_gradient(model, (inputs, labels), clip, noise, expected=expected, source=source) for _ in range(2)]
    flat = [torch.cat([g.flatten() for g in step.values()]).double().numpy() * expected / (noise * clip) for step in steps]
    both = np.concatenate(flat)
    assert both.size > 30_000
    assert stats.kstest(both, "norm").pvalue > 0.01
    assert abs(np.corrcoef(*flat)[0, 1]) < 5 / sqrt(flat[0].size)
    assert abs(float(both.var()) - 1) < 5 * sqrt(2 / both.size)


def test_noise_comes_on_top_of_the_clipped_sum() -> None:
    model, examples = model_of(), examples_of()
    clean = private_gradient(model, examples, 0.1)
    noisy = private_gradient(model, examples, 0.1, 2.0, source=source_of(DpSgd(entropy="seeded"), 2))
    rest = torch.cat([(noisy[name] - clean[name]).flatten() for name in clean]).double()
    assert float(rest.std()) == pytest.approx(0.2, rel=0.05)


def test_seeds_repeat_and_the_system_does_not() -> None:
    seeded = DpSgd(entropy="seeded")

    def drawn(settings: DpSgd, *key: int) -> Tensor:
        source = source_of(settings, 0, *key)
        return torch.cat([g.flatten() for g in private_gradient(model_of(), examples_of(), 1.0, 1.0, source=source).values()])

    assert torch.equal(drawn(seeded, 1), drawn(seeded, 1))
    assert not torch.equal(drawn(seeded, 1), drawn(seeded, 2))
    assert not torch.equal(drawn(DpSgd(), 1), drawn(DpSgd(), 1))


def test_rows_are_a_poisson_sample() -> None:
    mechanism = Mechanism(1.0, 1.0, source=source_of(DpSgd(entropy="seeded"), 3))
    n, batch, trials = 40, 5, 2000
    counts, sizes = np.zeros(n), []
    for _ in range(trials):
        rows = mechanism.rows(n, batch)
        assert rows.dtype == torch.int64 and rows.tolist() == sorted(set(rows.tolist()))
        counts[rows.numpy()] += 1
        sizes.append(len(rows))
    spread = sqrt(trials * (1 / 8) * (7 / 8))
    assert np.abs(counts - trials / 8).max() < 4.5 * spread
    assert 0 in sizes
    assert np.var(sizes) == pytest.approx(n * (1 / 8) * (7 / 8), rel=0.15)
    assert mechanism.rows(3, 8).tolist() == [0, 1, 2]


def test_an_examples_own_draws_are_secret() -> None:
    """They come from the source, new with each run: not from a seed that the server knows."""
    first, second = Mechanism(1.0, 1.0).generator(), Mechanism(1.0, 1.0).generator()
    assert not torch.equal(torch.rand(8, generator=first), torch.rand(8, generator=second))


# Price


GRID = [
    (0.8, 0.02, 300), (1.0, 0.02, 2000), (1.0, 0.001, 2000), (2.0, 0.5, 30), (8.0, 0.999, 30), (4.0, 0.1, 500), (1.5, 1.0, 3),
]  # fmt: skip


@pytest.mark.parametrize(("noise", "rate", "count"), GRID)
def test_the_price_is_that_of_opacus_and_of_our_own_account(noise: float, rate: float, count: int) -> None:
    from opacus.accountants import RDPAccountant

    theirs = RDPAccountant()
    theirs.history = [(noise, rate, count)]
    step = Steps(rate, noise, count)
    ours = example_epsilon([step], DELTA)
    assert ours == pytest.approx(theirs.get_epsilon(DELTA, alphas=list(ORDERS)), rel=1e-12)
    assert ours <= theirs.get_epsilon(DELTA) * 1.01
    account = Accountant(DELTA)
    account.spend(step.event, (3,), count)
    assert ours * (1 - 1e-9) <= account.epsilon(3) <= 1.05 * ours


@pytest.mark.filterwarnings("ignore:Optimal order is the:UserWarning")
@pytest.mark.parametrize(("noise", "rate", "count"), [(0.8, 0.02, 300), (2.0, 0.5, 30), (4.0, 0.1, 500)])
def test_the_tight_figure_lies_below_the_bound(noise: float, rate: float, count: int) -> None:
    from opacus.accountants import PRVAccountant

    tight = PRVAccountant()
    tight.history = [(noise, rate, count)]
    bound = example_epsilon([Steps(rate, noise, count)], DELTA)
    assert 0.75 * bound < tight.get_epsilon(DELTA) < bound


@pytest.mark.parametrize(("noise", "count"), [(2.0, 1), (5.0, 40), (20.0, 100)])
def test_without_sampling_it_is_the_gaussian_mechanism(noise: float, count: int) -> None:
    """Balle and Wang (ICML 2018): the exact epsilon, with mu = sqrt(count) / noise."""
    mu = sqrt(count) / noise

    def gap(epsilon: float) -> float:
        above = stats.norm.cdf(mu / 2 - epsilon / mu)
        return float(above - exp(epsilon) * stats.norm.cdf(-mu / 2 - epsilon / mu) - DELTA)

    exact = float(optimize.brentq(gap, 1e-9, 100.0))
    assert exact < example_epsilon([Steps(1.0, noise, count)], DELTA) < 1.2 * exact


def test_every_step_costs() -> None:
    spent = [example_epsilon([Steps(0.05, 1.1, count)], DELTA) for count in (0, 1, 10, 100, 1000)]
    assert spent[0] == 0.0 and spent == sorted(set(spent))
    assert example_epsilon([], DELTA) == 0.0
    assert example_epsilon([Steps(0.05, 1.2, 100)], DELTA) < example_epsilon([Steps(0.05, 1.1, 100)], DELTA)
    assert example_epsilon([Steps(0.06, 1.1, 100)], DELTA) > example_epsilon([Steps(0.05, 1.1, 100)], DELTA)


def test_steps_of_many_kinds_add_up() -> None:
    parts = [Steps(0.05, 1.1, 40), Steps(0.2, 3.0, 100), Steps(0.05, 1.1, 60), Steps(1.0, 9.0, 0)]
    joined = example_epsilon([Steps(0.05, 1.1, 100), Steps(0.2, 3.0, 100)], DELTA)
    assert example_epsilon(parts, DELTA) == pytest.approx(joined, rel=1e-12)
    assert example_epsilon(parts[:1], DELTA) < joined


def test_the_far_ends_have_a_price() -> None:
    """No warning, no overflow: almost no noise, and almost nothing but noise."""
    assert 1e4 < example_epsilon([Steps(0.5, 0.01, 100)], DELTA) < 1e9
    assert 0 <= example_epsilon([Steps(1e-6, 1e4, 1)], DELTA) < 0.02


@pytest.mark.parametrize("target", [0.5, 4.0])
def test_noise_is_made_for_a_target(target: float) -> None:
    settings, plan = DpSgd(target_epsilon=target), [(0.1, 60), (0.02, 600)]
    noise = noise_of(settings, plan)

    def epsilon(z: float) -> float:
        return example_epsilon([Steps(rate, z, count) for rate, count in plan], DELTA)

    assert epsilon(noise) <= target < epsilon(0.999 * noise)
    assert Mechanism.of(settings, plan).noise_multiplier == noise


def test_noise_as_set_and_targets_that_nothing_reaches() -> None:
    assert noise_of(DpSgd(noise_multiplier=0.7), [(0.1, 60)]) == 0.7
    with pytest.raises(SettingError, match="target-epsilon = 0.0001"):
        noise_of(DpSgd(target_epsilon=1e-4), [(1.0, 600)])


def test_rates_and_steps() -> None:
    assert rate_of(100, 25) == 0.25 and rate_of(10, 32) == 1.0
    assert steps_of(100, 32, 3) == 12 and steps_of(10, 32, 2) == 2
    assert Mechanism(1.0, 2.0).steps(100, 25, 7) == Steps(0.25, 2.0, 7)
    with pytest.raises(SettingError, match="at least one training example"):
        rate_of(0, 32)


@pytest.mark.parametrize("wrong", [(0.0, 1.0, 1), (1.1, 1.0, 1), (float("nan"), 1.0, 1), (0.5, -1.0, 1), (0.5, 1.0, -1)])
def test_steps_that_cannot_be_are_refused(wrong: tuple[float, float, int]) -> None:
    with pytest.raises(SettingError, match="it must have 0 < rate <= 1"):
        Steps(*wrong)


def test_no_noise_is_no_privacy() -> None:
    assert example_epsilon([Steps(0.5, 0.0, 1)], DELTA) == float("inf")


def test_settings_have_ranges() -> None:
    fields = {key: f for key, _, f in keys((DpSgd,))}
    assert list(fields) == [
        f"dp-sgd.{name}" for name in ("noise-multiplier", "clip", "delta", "target-epsilon", "chunk", "entropy")
    ]
    for key, wrong in [("noise-multiplier", 0.0), ("clip", 0.0), ("delta", 0.0), ("chunk", 0), ("entropy", "none")]:
        with pytest.raises(SettingError, match=f"dp-sgd.{key} = "):
            checked(f"dp-sgd.{key}", wrong, fields[f"dp-sgd.{key}"])


@pytest.mark.long
def test_opacus_is_loaded_late_and_logs_nothing_more() -> None:
    code = """
import logging, sys
from fedwarm.privacy.mechanisms.dp_sgd.account import Steps, example_epsilon
assert "opacus" not in sys.modules
example_epsilon([Steps(0.1, 1.0, 5)], 1e-5)
assert "opacus" in sys.modules and logging.getLogger().handlers == []
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

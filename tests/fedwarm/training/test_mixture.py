"""A mixture's algebra: exact responsibilities, a tight bound, its gradient, and the M-step that clients come to together."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fedwarm.core.arrays import WeightedMean, from_module
from fedwarm.training.gates import Bias, OwnNet, known, new_gate
from fedwarm.training.loop import Batch, Plan, fit
from fedwarm.training.mixture import PER_CLIENT, PER_EXPERT, Answers, Mixture, Responsible, Terms, responsibilities

CLASSES, SIZE, EXPERTS = 3, 8, 3
SIZES = (7, 11, 5, 20)
RATE = 0.1


class Double(nn.Module):
    """Inputs in float64, flat."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.double().flatten(1)


def expert(seed: int) -> nn.Module:
    draws = torch.Generator().manual_seed(seed)
    linear = nn.Linear(3 * SIZE * SIZE, CLASSES, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(0.05 * torch.randn(linear.weight.shape, generator=draws, dtype=torch.float64))
        linear.bias.copy_(0.05 * torch.randn(CLASSES, generator=draws, dtype=torch.float64))
    return nn.Sequential(Double(), linear)


def mixture(*seeds: int) -> Mixture:
    gate = Bias(torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64))
    return Mixture({k: expert(seed) for k, seed in enumerate(seeds or range(EXPERTS))}, gate)


def images(n: int, seed: int) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(100 + seed)
    pixels = torch.randint(0, 256, (n, 3, SIZE, SIZE), generator=draws, dtype=torch.uint8)
    return pixels, torch.randint(0, CLASSES, (n,), generator=draws)


def logs(n: int = 13) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(3)
    return (torch.randn(2, n, EXPERTS, generator=draws, dtype=torch.float64).log_softmax(2)).unbind(0)


def bound(q: Tensor, log_prior: Tensor, log_likelihood: Tensor) -> Tensor:
    """The lower bound of the log-likelihood at responsibilities q (n, experts), each of them positive; summed over examples."""
    return (q * (log_likelihood + log_prior - q.log())).sum()


def test_responsibilities_are_exact_and_make_the_bound_tight() -> None:
    prior, likelihood = logs()
    q = responsibilities(prior, likelihood)
    assert (q.sum(1) - 1).abs().max() < 1e-12
    assert torch.equal(q, (prior + likelihood).softmax(1))
    whole = torch.logsumexp(prior + likelihood, dim=1).sum()
    assert abs(bound(q, prior, likelihood) - whole) < 1e-9
    for other in (prior.exp(), torch.full_like(q, 1 / EXPERTS), 0.99 * q + 0.01 / EXPERTS):
        assert bound(other, prior, likelihood) < whole - 1e-6


def test_the_bound_with_responsibilities_held_has_the_gradient_of_the_likelihood() -> None:
    """Of experts and gate, in float64, relative 1e-6; the trained loss is that likelihood's."""
    model, (pixels, labels) = mixture(), images(16, 0)
    inputs, rows = pixels.float() / 255, torch.arange(16)
    model.watched = True
    loss = -model(inputs)[rows, labels].mean()
    by_likelihood = torch.autograd.grad(loss, [*model.parameters()])
    model(inputs)
    assert model.seen is not None
    prior, likelihood = model.seen.log_prior, model.seen.log_p[rows, :, labels]
    q = responsibilities(prior, likelihood).detach()
    by_bound = torch.autograd.grad(-bound(q, prior, likelihood) / 16, [*model.parameters()])
    for a, b in zip(by_likelihood, by_bound, strict=True):
        assert (a - b).abs().max() <= 1e-6 * a.abs().max()
    assert abs(loss.item() - nn.functional.cross_entropy(model(inputs), labels).item()) < 1e-12


def trained(norm: str, number: int) -> tuple[Mixture, Responsible]:
    """One full-batch step of a client by the loop that all clients use."""
    model, (pixels, labels) = mixture(), images(SIZES[number], number)
    hook = Responsible(model, Terms(norm))
    fit(model, pixels, labels, Plan(1, 64, RATE), torch.Generator().manual_seed(number), [hook])
    return model, hook


@pytest.mark.parametrize("norm", [PER_EXPERT, PER_CLIENT])
def test_one_step_of_all_clients_is_the_centralised_m_step(norm: str) -> None:
    """w_k - eta sum_i q_ik grad l_ik / sum_i q_ik over everybody's images; with per_client, that step times N_k / N."""
    clients = [trained(norm, number) for number in range(len(SIZES))]
    model = mixture()
    pixels, labels = (torch.cat(parts) for parts in zip(*(images(n, i) for i, n in enumerate(SIZES)), strict=True))
    model.watched = True
    model((pixels.float() - 127.5) / 127.5)
    assert model.seen is not None
    likelihood = model.seen.log_p[torch.arange(len(labels)), :, labels]
    q = responsibilities(model.seen.log_prior, likelihood).detach()
    mass = q.sum(0)
    for k in range(EXPERTS):
        mean, total = WeightedMean(), 0.0
        for number, (own, hook) in enumerate(clients):
            mean.add(from_module(own.experts[k]), hook.mass[k] if norm == PER_EXPERT else SIZES[number])
            total += hook.mass[k]
        assert abs(total - float(mass[k])) < 1e-9
        gradient = torch.autograd.grad(-(q[:, k] * likelihood[:, k]).sum() / mass[k], model.parameters_of(k), retain_graph=True)
        scale = 1.0 if norm == PER_EXPERT else float(mass[k]) / len(labels)
        for array, start, step in zip(mean.result().values(), model.parameters_of(k), gradient, strict=True):
            assert (torch.from_numpy(array) - (start - RATE * scale * step)).abs().max() < 1e-12


def test_a_bias_comes_to_the_mean_responsibility() -> None:
    """The M-step of the gate alone, from responsibilities that are held: its closed form is their mean."""
    prior, likelihood = logs(40)
    q, gate = responsibilities(prior, likelihood), Bias(torch.zeros(EXPERTS, dtype=torch.float64))
    steps = torch.optim.SGD(gate.parameters(), lr=1.0)
    for _ in range(200):
        steps.zero_grad()
        loss = -(q * gate(torch.zeros(40, 3, 1, 1), None).log_softmax(1)).sum(1).mean()
        loss.backward()
        steps.step()
    assert (gate.logits.softmax(0) - q.mean(0)).abs().max() < 1e-6


def test_an_expert_with_next_to_no_mass_takes_no_step_but_for_the_first_of_all() -> None:
    model, (pixels, labels) = mixture(), images(8, 1)
    with torch.no_grad():
        model.gate.logits.copy_(torch.tensor([9.0, 0.0, 0.0]))  # type: ignore[operator, union-attr]
    before, hook = copy.deepcopy(model), Responsible(model, Terms())
    fit(model, pixels, labels, Plan(2, 8, RATE, momentum=0.9, weight_decay=0.1), torch.Generator(), [hook])
    assert hook.trained == [True, False, False] and abs(sum(hook.mass) - 8) < 1e-9
    for k in range(EXPERTS):
        same = [torch.equal(a, b) for a, b in zip(model.parameters_of(k), before.parameters_of(k), strict=True)]
        assert all(same) == (k > 0)


def test_an_expert_that_is_alone_is_itself() -> None:
    """To the bit, its loss and its steps among it, with a gate beside it or without."""
    pixels, labels = images(9, 2)
    model, alone = Mixture({2: expert(5)}, Bias(torch.zeros(EXPERTS, dtype=torch.float64))), expert(5)
    hook = Responsible(model, Terms())
    losses = [
        fit(each, pixels, labels, Plan(2, 4, RATE, 0.9, 0.01), torch.Generator().manual_seed(1), hooks).loss
        for each, hooks in ((model, [hook]), (alone, []))
    ]
    assert losses[0] == losses[1] and hook.mass == [9.0] and hook.trained == [True]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters_of(0), alone.parameters(), strict=True))


def test_entropy_terms_move_the_gate_alone() -> None:
    """A client's term sharpens its mean responsibilities, that of all clients moves them to experts that are used less."""
    found = {}
    for name, terms in {
        "none": Terms(PER_CLIENT),
        "client": Terms(PER_CLIENT, client_entropy=1.0),
        "global": Terms(PER_CLIENT, global_entropy=1.0, prior=torch.tensor([0.8, 0.1, 0.1], dtype=torch.float64)),
    }.items():
        model, (pixels, labels) = mixture(), images(16, 4)
        fit(model, pixels, labels, Plan(1, 16, RATE), torch.Generator(), [Responsible(model, terms)])
        found[name] = model
    for k in range(EXPERTS):
        experts = [from_module(model.experts[k]) for model in found.values()]
        assert all((a["1.weight"] == experts[0]["1.weight"]).all() for a in experts)
    priors = {name: model.gate.logits.softmax(0) for name, model in found.items()}  # type: ignore[union-attr, operator]
    assert priors["client"].max() > priors["none"].max() and priors["global"][0] < priors["none"][0]


def test_gates_begin_uniform_and_answers_are_the_mixtures() -> None:
    """Those of several gates at once are those of each; with `hard` the likeliest expert answers alone."""
    inputs = images(5, 6)[0].float() / 255
    for kind in ("own_net", "bias"):
        gate = new_gate(kind, EXPERTS, 0, 1, 2)
        assert torch.equal(gate(inputs, None).softmax(1), torch.full((5, EXPERTS), 1 / EXPERTS))
    assert not torch.equal(
        new_gate("bias", EXPERTS, 0, 1, 2, 1.0)(inputs, None), new_gate("bias", EXPERTS, 0, 1, 3, 1.0)(inputs, None)
    )
    assert isinstance(new_gate("own_net", EXPERTS, 0, 1, 2), OwnNet)
    model, prior = mixture(), known([3, 1, 0])
    answers = Answers(model, [(model.gate, (0, 1, 2)), (prior, (0, 1))])(inputs)  # type: ignore[list-item]
    assert torch.allclose(answers[:, 0], model(inputs))
    shares = torch.tensor([0.75, 0.25], dtype=torch.float64)
    p = torch.stack([model.experts[k](inputs).softmax(1) for k in (0, 1)], 1)
    assert torch.allclose(answers[:, 1].exp(), (shares[None, :, None] * p).sum(1), atol=1e-6)
    hard = Answers(model, [(prior, (0, 1, 2))], hard=True)(inputs)
    assert torch.equal(hard[:, 0], model.experts[0](inputs).log_softmax(1))


def test_the_gate_has_a_step_size_of_its_own() -> None:
    ends, (pixels, labels) = {}, images(16, 4)
    for rate in (1.0, 0.25):
        ends[rate] = mixture()
        fit(ends[rate], pixels, labels, Plan(1, 16, RATE), torch.Generator(), [Responsible(ends[rate], Terms(gate_rate=rate))])
    start = mixture().gate.logits
    ways = {rate: model.gate.logits - start for rate, model in ends.items()}  # type: ignore[operator]
    assert ways[1.0].abs().max() > 1e-4 and torch.allclose(ways[0.25], 0.25 * ways[1.0], rtol=1e-9)
    experts = [[*model.experts.parameters()] for model in ends.values()]
    assert all(torch.equal(a, b) for a, b in zip(*experts, strict=True))


@pytest.mark.parametrize("norm", [PER_EXPERT, PER_CLIENT])
def test_features_are_pulled_to_their_mean_which_is_held(norm: str) -> None:
    """alignment sum_k s_k mean ||h_k - m||^2, s_k an expert's share of the batch where its step is divided by it, else 1."""
    model, (pixels, labels) = Mixture({k: expert(k) for k in range(EXPERTS)}, mixture().gate, head="1"), images(8, 2)
    model.watched, inputs, rows = True, (pixels.float() - 127.5) / 127.5, torch.arange(8)
    hook = Responsible(model, Terms(norm, alignment=0.3))
    outputs = model(inputs)
    assert model.seen is not None
    features = [
        torch.randn(8, 5, generator=torch.Generator().manual_seed(k), dtype=torch.float64).requires_grad_() for k in range(3)
    ]
    model.seen = replace(model.seen, features=tuple(features))
    term = hook.loss(Batch(model, inputs, labels, outputs, rows), torch.zeros((), dtype=torch.float64))
    middle = torch.stack(features).mean(0).detach()
    shares = [mass / 8 for mass in hook.batch[0]] if norm == PER_EXPERT else [1.0] * EXPERTS
    assert len(set(hook.batch[0])) == EXPERTS
    apart = [float((h.detach() - middle).square().sum(1).mean()) for h in features]
    assert term.item() == pytest.approx(0.3 * sum(share * way for share, way in zip(shares, apart, strict=True)))
    for share, h, slope in zip(shares, features, torch.autograd.grad(term, features), strict=True):
        assert torch.allclose(slope, 0.3 * share * 2 * (h - middle) / 8, rtol=1e-9)

"""FedSparse: its limits bit for bit, its objective by differences, what travels, what goes, and what it refuses."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from clients.fedsparse import GroupedClient, Received
from fedwarm.catalogue import parse
from fedwarm.clients import trainer_class
from fedwarm.coding.packing import mask_bytes, pack_mask
from fedwarm.core.arrays import Arrays, from_module
from fedwarm.core.payload import Payload, PayloadError
from fedwarm.core.stages import Stage
from fedwarm.core.store import Store
from fedwarm.data.node import Node
from fedwarm.flower.wire import from_records, to_records
from fedwarm.launch.preflight import check_run
from fedwarm.methods.fedprox import FedProx, ProximalTerm
from fedwarm.methods.fedsparse import FedSparse, final
from fedwarm.rounds.fleet import Fleet, Member
from fedwarm.settings.fields import SettingError, Value
from fedwarm.sparse.groups import Groups
from fedwarm.sparse.hard_concrete import active, deterministic, log_alpha_of
from fedwarm.sparse.packing import PACKED, Reader, from_values, joined, to_values, values_bytes
from fedwarm.sparse.penalty import Penalty, Prior
from fedwarm.sparse.plan import GROWS
from fedwarm.sparse.prior import SparsePrior
from fedwarm.sparse.sites import Site
from fedwarm.strategies import strategy_class
from fedwarm.training.loop import Batch, Plan, fit
from tests.runs import Outcome, run, same

SMALL: dict[str, Value] = {
    "num-server-rounds": 3, "local-epochs": 1, "data.max-examples": 24, "data.image-size": 16, "model.name": "lenet5",
}  # fmt: skip
ON: dict[str, Value] = {"fedsparse.gates": "on", "fedsparse.precision": 0.0}
HARD: dict[str, Value] = {
    "fedsparse.gate-rate": 1000.0, "fedsparse.theta-rate": 1.0, "fedsparse.theta": 0.9, "fedsparse.tau": 0.3,
    "fedsparse.density": 0.0, "fedsparse.warmup": 0,
}  # fmt: skip


class Net(nn.Module):
    """Two layers, 3 -> 4 -> 2, in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
        draws = torch.Generator().manual_seed(0)
        for p in self.parameters():
            p.data = torch.randn(p.shape, generator=draws, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.body(x)
        return logits


def prior(groups: Groups, settings: FedSparse, examples: int = 6, sent: Any = None) -> SparsePrior:
    sent = np.ones(groups.count, np.bool_) if sent is None else sent
    theta = np.linspace(0.3, 0.9, int(sent.sum()))
    sizes = groups.sizes.astype(float)
    return SparsePrior(settings, groups, sent, theta, sizes, examples, settings.lambda0, torch.Generator())


# Limits


def test_with_all_gates_on_it_is_fedavg_bit_for_bit(tmp_path: Path) -> None:
    settings: dict[str, Value] = {**SMALL, "fraction-train": 0.5, "data.partition": "dirichlet", "data.alpha": 1.0}
    plain = run("fedavg", tmp_path / "plain", settings)
    assert same(run("fedsparse", tmp_path / "ours", {**settings, **ON}).model, plain.model)


def test_with_equal_weights_it_is_the_plain_mean(tmp_path: Path) -> None:
    settings: dict[str, Value] = {
        **SMALL, **ON, "num-server-rounds": 1, "fedsparse.weight-by": "clients", "data.partition": "pathological",
    }  # fmt: skip
    outcome = run("fedsparse", tmp_path / "run", settings)
    groups = groups_of_lenet()
    chosen = groups.live(np.ones(groups.count, np.bool_))
    replies = []
    for reply in outcome.answered("round"):
        reader = Reader(from_records(reply.content).arrays[PACKED])
        assert reader.mask(groups.count).all()
        replies.append(from_values(reader, chosen))
    for name, array in outcome.model.items():
        np.testing.assert_allclose(array, sum(r[name] for r in replies) / 4, atol=1e-7)


def groups_of_lenet(single: bool = False) -> Groups:
    from fedwarm.models import Model
    from fedwarm.sparse.groups import groups_of

    return groups_of(Model(name="lenet5"), 10, 16, single)


def test_with_all_gates_on_one_gradient_is_fedprox_s() -> None:
    """mu = lambda / N_s, after a first step away from the server's weights."""
    found = []
    for hook in (prior(Groups.of(Net()), FedSparse(gates="on", precision=3.0)), ProximalTerm(FedProx(mu=0.5))):
        model = Net()
        hook.prepare(model)
        for p in model.parameters():
            p.data += 0.1
        inputs, labels = torch.ones(6, 3, dtype=torch.float64), torch.tensor([0, 1, 0, 1, 0, 1])
        logits = model(inputs)
        loss = hook.loss(Batch(model, inputs, labels, logits, labels), cross_entropy(logits, labels))
        found.append(torch.autograd.grad(loss, [*model.parameters()]))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)


# The objective


@pytest.mark.parametrize("per", ["weight", "gate", "single"])
def test_the_gradient_of_the_objective_by_differences(per: str) -> None:
    """For weights and gates, with fixed noise, relative 1e-5."""
    model, groups = Net(), Groups.of(Net(), per == "single")
    count = groups.count
    hook = prior(groups, FedSparse(precision=2.0, lambda0=0.1, lambda0_per="gate" if per == "gate" else "weight"))
    hook.prepare(model)
    for p in model.parameters():
        p.data += 0.1
    hook.log_alpha = (log_alpha_of(torch.linspace(0.3, 0.8, count, dtype=torch.float64))).requires_grad_(True)
    hook.theta, hook.sizes = torch.linspace(0.4, 0.9, count, dtype=torch.float64), hook.sizes.double()
    inputs = torch.randn(6, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    labels = torch.tensor([0, 1, 1, 0, 1, 0])

    def objective() -> Tensor:
        hook.draws.manual_seed(5)
        logits = model(inputs)
        return hook.loss(Batch(model, inputs, labels, logits, labels), cross_entropy(logits, labels))

    tensors = [*model.parameters(), hook.log_alpha]
    for tensor, gradient in zip(tensors, torch.autograd.grad(objective(), tensors), strict=True):
        for i in range(tensor.numel()):
            flat = tensor.data.view(-1)
            flat[i] += 1e-6
            up = objective().item()
            flat[i] -= 2e-6
            down = objective().item()
            flat[i] += 1e-6
            assert (up - down) / 2e-6 == pytest.approx(gradient.view(-1)[i].item(), rel=1e-5, abs=1e-8)


def test_without_a_plan_the_price_grows_over_the_warm_up() -> None:
    settings = FedSparse(density=0.0, lambda0=0.4, warmup=4)
    assert [settings.price(n, 9, 0.5) for n in (1, 2, 3, 5, 9)] == pytest.approx([0, 0.1, 0.2, 0.4, 0.4])
    assert FedSparse(density=0.0, lambda0=0.4, warmup=0).price(1, 9, 0.5) == 0.4


def test_with_a_plan_only_what_is_above_it_is_charged() -> None:
    settings = FedSparse(density=0.2, lambda0=0.4, density_band=0.1, density_rounds=4)
    assert [settings.planned(n, 99) for n in (1, 2, 4, 9)] == pytest.approx([0.8, 0.6, 0.2, 0.2])
    assert [settings.price(2, 99, at) for at in (0.5, 0.6, 0.65, 0.7, 1.0)] == pytest.approx([0, 0, 0.2, 0.4, 0.4])
    assert FedSparse(density=0.2).planned(5, 30) == pytest.approx(0.6)  # over a third of the rounds


def test_a_run_keeps_to_its_plan(tmp_path: Path) -> None:
    """What is charged finds its size from either side, and the density ends where it was planned."""
    own: dict[str, Value] = {
        **SMALL, "num-server-rounds": 18, "fedsparse.density": 0.4, "fedsparse.gate-rate": 60.0, "fedsparse.theta-rate": 1.0,
        "learning-rate": 0.05, "fedsparse.settle-start": 99,
    }  # fmt: skip
    charged, ends, notes = [], [], []
    for price in (0.01, 1.0):
        outcome = run("fedsparse", tmp_path / f"{price}", {**own, "fedsparse.lambda0": price})
        charged.append([from_records(m.content).number("price") for m in outcome.asked("round")][::4])
        ends.append(outcome.results["measures"]["gates"]["density"])
        notes.append(any("planned was 0.40" in note for note in outcome.results["notes"]))
    assert charged[0][5] == pytest.approx(0.01 * GROWS**5) and min(charged[1]) < 0.7
    assert ends[0][-1] > 0.6 and 0.3 < ends[1][-1] < 0.5
    assert notes == [True, False]


def test_units_that_are_on_train_on_without_gates(tmp_path: Path) -> None:
    """After two thirds of the rounds messages hold them whole, both ways, and no price."""
    own: dict[str, Value] = {
        **SMALL, **HARD, "num-server-rounds": 6, "fedsparse.lambda0": 0.2, "fedsparse.gate-rate": 60.0, "fedsparse.up": "logits",
    }  # fmt: skip
    outcome = run("fedsparse", tmp_path / "run", own)
    groups, found = groups_of_lenet(), outcome.results["measures"]["gates"]
    asked, answered = outcome.asked("round"), outcome.answered("round")
    assert ["price" in from_records(m.content).metrics for m in asked] == [True] * 16 + [False] * 8
    assert 0 < found["on"][3] == found["on"][4] == groups.count - found["gone"][4]
    for message, reply in zip(asked[16:], answered[16:], strict=True):
        down, up = (Reader(from_records(m.content).arrays[PACKED]) for m in (message, reply))
        mask, gone = down.mask(groups.count), down.mask(groups.count)
        assert np.array_equal(mask, ~gone) and mask.sum() == found["on"][4] and up.mask(int(mask.sum())).all()
        from_values(up, groups.chosen(groups.live(mask), mask))
        up.end()  # no probabilities


def test_a_group_costs_what_its_weights_do() -> None:
    """lambda_0 (pi_1 + 7 pi_2) for groups of 1 and 7 weights."""
    groups = Groups((Site("a", True, 1), Site("b", True, 1)), {"a.weight": (1, 1), "b.weight": (7, 1)})
    pi, centre = torch.tensor([0.3, 0.6]), [torch.zeros(1, 1), torch.zeros(7, 1)]
    sizes = torch.from_numpy(groups.sizes).float()
    prior = Prior(groups, ["a.weight", "b.weight"], centre, torch.arange(2), pi, sizes, 0.0, 0.01, True)
    assert Penalty.apply(prior, log_alpha_of(pi), *centre).item() == pytest.approx(0.01 * (0.3 + 7 * 0.6))


def test_groups_that_were_not_sent_are_not_there() -> None:
    """Their units are off, and neither moved nor paid for."""
    groups = Groups.of(Net())
    sent = np.array([True, False, True, True, False, True, False])
    hook, model = prior(groups, FedSparse(gate_rate=5.0), sent=sent), Net()
    chosen = groups.chosen(groups.live(np.ones(7, np.bool_)), sent)
    for name, p in model.named_parameters():
        p.data *= torch.from_numpy(chosen[name])
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    images, labels = torch.zeros(12, 3, 1, 1, dtype=torch.uint8), torch.arange(12) % 2
    fit(model.float(), images, labels, Plan(2, 4, 0.1), torch.Generator(), [hook])
    for name, p in model.named_parameters():
        moved = (p.detach().double() - before[name]).abs() > 1e-6
        assert moved.any() and not (moved & ~torch.from_numpy(chosen[name])).any()
    assert len(hook.log_alpha) == 4 and (active(hook.log_alpha.detach()) != hook.theta).all()


# What travels


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run("fedsparse", tmp_path_factory.mktemp("run") / "run", SMALL)


def test_bytes_both_ways_are_those_of_the_formula(outcome: Outcome) -> None:
    """One array each way, theta beside it where it is the same of all; the ledger has its length, and its header beside."""
    groups = groups_of_lenet()
    live = groups.live(np.ones(groups.count, np.bool_))
    lines = [line for line in outcome.ledger if line.get("stage") == "round" and line["round"] < 3]
    pairs = zip(outcome.asked("round"), outcome.answered("round"), lines, strict=False)
    for asked, answered, line in pairs:
        down, up = (from_records(m.content).arrays for m in (asked, answered))
        assert down.keys() == up.keys() == {PACKED}
        mask = Reader(down[PACKED]).mask(groups.count)
        had, same = int(mask.sum()), "theta" in from_records(asked.content).metrics
        assert same == (line["round"] == 1)
        told = 0 if same else 2 * had
        assert line["payload_bytes_down"] == mask_bytes(groups.count) + told + values_bytes(groups.chosen(live, mask))
        gates = mask.copy()
        gates[mask] = Reader(up[PACKED]).mask(had)
        assert line["payload_bytes_up"] == mask_bytes(had) + values_bytes(groups.chosen(live, gates))
        assert line["wire_bytes_up"] == line["payload_bytes_up"] + 128


def server(**settings: Value) -> Any:
    """A strategy whose fleet is there, before its first round."""
    made = strategy_class("fedsparse")(parse({"method": "fedsparse", **SMALL, **settings}))
    members = tuple(Member(i, i, 12, 0, tuple(range(10)), None) for i in range(200))
    made.fleet = Fleet(members, tuple("0123456789"), 16)
    made.arrays = made.initial_arrays()
    next(made.plan())
    return made


def test_groups_are_drawn_as_often_as_theta_says() -> None:
    """Chi-square over 1e4 messages, p > .001, and the same when asked again."""
    made = server()
    made.theta = np.linspace(0.05, 0.95, made.groups.count)
    counts = sum(made.drawn(n, c).astype(int) for n in range(50) for c in range(200))
    expected = 1e4 * made.theta
    chi = ((counts - expected) ** 2 / (expected * (1 - made.theta))).sum()
    degrees = made.groups.count
    assert chi < degrees + 3.1 * np.sqrt(2 * degrees) + 6
    assert (made.drawn(3, 5) == made.drawn(3, 5)).all() and (made.drawn(3, 5) != made.drawn(3, 6)).any()


def reply(made: Any, client: int, mask: Any, values: Any = None) -> Payload:
    """A client's, which sends what it was sent back."""
    had = made.drawn(1, client)
    chosen = made.groups.chosen(made.live, mask)
    packed = joined([pack_mask(mask[had]), to_values(made.shared if values is None else values, chosen)])
    return Payload("words", {PACKED: packed}, {"num-examples": 2})


def absorbed(made: Any, clients: range) -> None:
    stage = Stage(1, "round", "train")
    made.begin(stage)
    for client in clients:
        payload = reply(made, client, made.drawn(1, client))
        made.expected_of(stage, client, payload, made.expected(stage))
        made._check_size(stage, payload.arrays, {})
        made.absorb(stage, client, payload)
    made.finish(stage)


def test_a_group_that_nobody_sends_keeps_its_weights_and_loses_theta() -> None:
    made = server(**{"fedsparse.theta": 0.9})
    stage, before, theta = Stage(1, "round", "train"), dict(made.shared), made.theta.copy()
    made.begin(stage)
    lost = 3
    doubled = {name: 2 * array for name, array in made.shared.items()}
    had = np.zeros(made.groups.count)
    for client in range(4):
        mask = made.drawn(1, client)
        had += mask
        mask = mask.copy()
        mask[lost] = False
        payload = reply(made, client, mask, doubled)
        made.expected_of(stage, client, payload, made.expected(stage))
        made.absorb(stage, client, payload)
    made.finish(stage)
    assert (made.shared["0.weight"][lost] == before["0.weight"][lost]).all()
    np.testing.assert_allclose(made.shared["0.weight"][[0, 1]], 2 * before["0.weight"][[0, 1]])
    assert made.theta[lost] == pytest.approx(theta[lost] / 2)
    assert had[0] > 0 and made.theta[0] == pytest.approx((theta[0] + 1) / 2)


def test_memory_does_not_grow_with_replies() -> None:
    def peak(clients: int) -> int:
        made = server(**{"model.name": "cnn"})
        absorbed(made, range(1))
        tracemalloc.start()
        absorbed(made, range(clients))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(40) < 1.05 * peak(4)


def test_what_no_client_can_have_sent_is_refused() -> None:
    made, stage = server(), Stage(1, "round", "train")
    good = reply(made, 0, made.drawn(1, 0))
    made.expected_of(stage, 0, good, {})
    for spoil in (lambda a: a[:-1], lambda a: np.append(a, np.uint8(0)), lambda a: a.view(np.int8)):
        with pytest.raises(ValueError, match="packed model"):
            made.expected_of(stage, 0, Payload("words", {PACKED: spoil(good.arrays[PACKED])}), {})
    poison = good.arrays[PACKED].copy()
    poison[-4:] = np.frombuffer(np.float32(np.nan).tobytes(), np.uint8)
    with pytest.raises(PayloadError, match="NaN or infinity"):
        made.expected_of(stage, 0, Payload("words", {PACKED: poison}), {})
    huge = {name: 1e6 * array for name, array in made.shared.items()}
    payload = reply(made, 0, made.drawn(1, 0), huge)
    made.expected_of(stage, 0, payload, {})
    with pytest.raises(PayloadError, match=r"robust\.limit"):
        made._check_size(stage, payload.arrays, {})


# What goes


def test_a_large_price_leaves_nothing_and_training_survives(tmp_path: Path) -> None:
    outcome = run("fedsparse", tmp_path / "run", {**SMALL, **HARD, "num-server-rounds": 6, "fedsparse.lambda0": 1e3})
    found = outcome.results["measures"]["gates"]
    assert found["on"][-1] == 0 and found["gone"][-1] == found["groups"] == 242
    assert found["density"][-1] < 0.01
    assert all(np.isfinite(array).all() for array in outcome.model.values())
    last = [line for line in outcome.ledger if line.get("stage") == "round" and line["round"] == 6]
    assert all(line["payload_bytes_down"] < 600 for line in last)


def test_without_a_price_and_with_a_strong_prior_theta_stays(tmp_path: Path) -> None:
    settings: dict[str, Value] = {
        **SMALL, "fedsparse.theta": 0.9, "fedsparse.lambda0": 0.0, "fedsparse.precision": 1e3, "fedsparse.up": "logits",
        "fedsparse.down": "dense", "fedsparse.settle-start": 9,
    }  # fmt: skip
    theta = run("fedsparse", tmp_path / "run", settings).results["measures"]["gates"]["theta"]
    assert all(sum(counts[17:19]) == sum(counts) for counts in theta["layers"].values())  # of 20 bins those from .85 to .95


def test_pruned_groups_do_not_travel(tmp_path: Path) -> None:
    """After they went, messages hold what is left of the others' weights, and say which groups are gone."""
    settings: dict[str, Value] = {**SMALL, **HARD, "fedsparse.prune-start": 2, "fedsparse.lambda0": 0.05}
    outcome = run("fedsparse", tmp_path / "run", settings)
    groups, found = groups_of_lenet(), outcome.results["measures"]["gates"]
    assert 0 < found["gone"][1] < groups.count and found["gone"][0] == 0
    for message in outcome.asked("round")[8:]:
        payload = from_records(message.content)
        assert payload.count("pruned") == 1
        reader = Reader(payload.arrays[PACKED])
        mask, gone = reader.mask(groups.count), reader.mask(groups.count)
        assert gone.sum() == found["gone"][1] and not (mask & gone).any()
        assert "price" not in payload.metrics  # gates have ended, so that nobody needs theta
        from_values(reader, groups.chosen(groups.live(~gone), mask))
        reader.end()


def test_single_weights_that_go_are_zeros_in_the_model(tmp_path: Path) -> None:
    """Each weight has a gate; messages hold the weights that are drawn, and at the end theta no more."""
    own: dict[str, Value] = {
        **SMALL, **HARD, "num-server-rounds": 6, "fedsparse.groups": "weights", "fedsparse.density": 0.3, "fedsparse.lambda0": 1.0
    }  # fmt: skip
    outcome = run("fedsparse", tmp_path / "run", own)
    groups, found = groups_of_lenet(single=True), outcome.results["measures"]["gates"]
    weights = sum(array.size for name, array in outcome.model.items() if name in groups.places)
    assert found["groups"] == groups.count == weights and 0 < found["on"][-1] < 0.3 * weights
    assert sum(np.count_nonzero(outcome.model[name]) for name in groups.places) <= found["on"][-1]
    first, last = (from_records(outcome.asked("round")[at].content) for at in (0, -1))
    assert 0 < Reader(first.arrays[PACKED]).mask(groups.count).mean() < 1 and first.number("theta") == np.float16(0.9)
    others = sum(array.size for array in outcome.model.values()) - weights
    assert len(last.arrays[PACKED]) == mask_bytes(groups.count) + 4 * (found["on"][-1] + others)


def test_a_posterior_is_bayes_rule_for_two_normals() -> None:
    """Of a slab around the server's weights and a spike around 0, group by group, with lambda_0 = ln(lambda_2 / lambda) / 2."""
    groups, model = Groups.of(Net()), Net()
    settings = FedSparse(gates="posterior", precision=4.0, spike=30.0)
    price = settings.price(9, 30, 1.0)
    assert price == pytest.approx(np.log(30 / 4) / 2)
    hook = prior(groups, replace(settings, lambda0=price))
    hook.prepare(model)
    for p in model.parameters():
        p.data *= 0.3
    hook.finish(model)
    pi, worth = hook.probabilities()
    centre = from_module(Net())
    for g, theta in enumerate(hook.theta.double().numpy()):
        site, place = next(found for found in groups.places.values() if found[1].start <= g < found[1].stop)
        phi, w = (groups.rows(site, arrays[site.weight])[g - place.start] for arrays in (from_module(model), centre))
        slab, spike = norm.logpdf(phi, w, 4.0**-0.5).sum(), norm.logpdf(phi, 0, 30.0**-0.5).sum()
        expected = 1 / (1 + (1 - theta) / theta * np.exp(spike - slab))
        assert pi[g] == pytest.approx(expected, rel=1e-4, abs=1e-6) and worth[g] == (pi[g] > 0.05)


def test_units_that_are_gone_are_not_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither while gates shut them out nor after they have ended, though their inputs are still there."""
    packed, seen = GroupedClient.packed, list[tuple[bool, bool]]()

    def watched(self: GroupedClient, got: Received, arrays: Arrays, number: int) -> Any:
        sent = got.groups.chosen(got.live, got.mask)
        seen.append((got.price is None, all(not array[~sent[name]].any() for name, array in arrays.items())))
        return packed(self, got, arrays, number)

    monkeypatch.setattr(GroupedClient, "packed", watched)
    own: dict[str, Value] = {**SMALL, "model.name": "cnn", "num-server-rounds": 6, "fedsparse.gates": "posterior"}
    found = run("fedsparse", tmp_path / "run", own).results["measures"]["gates"]
    assert found["gone"][-1] > 0 and [ended for ended, _ in seen] == [False] * 16 + [True] * 8
    assert all(still for _, still in seen)


@pytest.mark.parametrize("own", [{"fedsparse.settle-start": 2}, {"fedsparse.density-rounds": 9}])
def test_by_the_posterior_gates_end_at_the_density(own: dict[str, Value], tmp_path: Path) -> None:
    """Though they end earlier than the plan that was asked for, as groups that are on have no order then."""
    plan: dict[str, Value] = {"num-server-rounds": 6, "fedsparse.gates": "posterior", "fedsparse.density": 0.3}
    settings: dict[str, Value] = {**SMALL, **plan, **own}
    found = run("fedsparse", tmp_path / "run", settings).results["measures"]["gates"]
    assert found["density"][-1] <= 0.3 and min(found["density"]) > 0.1


@pytest.mark.parametrize("groups", ["units", "weights"])
def test_by_the_posterior_the_density_is_what_is_planned(groups: str, tmp_path: Path) -> None:
    """No gate is trained; a round ends at its plan, the smallest weights are those that go, and theta takes no bytes."""
    own: dict[str, Value] = {**SMALL, "num-server-rounds": 9, "fedsparse.gates": "posterior", "fedsparse.groups": groups}
    outcome = run("fedsparse", tmp_path / "run", own)
    found = outcome.results["measures"]["gates"]
    planned = [FedSparse(gates="posterior").planned(n, 9) for n in range(1, 10)]
    slack = 0.001 if groups == "weights" else 0.15  # a unit has many weights
    assert all(plan - slack < density <= plan + 1e-6 for density, plan in zip(found["density"][2:], planned[2:], strict=True))
    assert all("theta" in from_records(m.content).metrics for m in outcome.asked("round")[:16])
    parts = groups_of_lenet(groups == "weights")
    assert found["groups"] == parts.count and found["returned"] == [0] * 9


# What settings choose


def test_groups_are_sent_back_as_often_as_their_gates_say(tmp_path: Path) -> None:
    """Over 4,000 rounds, within 4 standard errors; the numerator and denominator of the server's mean are then right, too."""
    groups, count = Groups.of(Net()), 4000
    one = trainer_class("fedsparse")(parse({"method": "fedsparse", **SMALL}), Node(0, 2, Store(tmp_path, "ab", 0, 64)))
    one.told, one.prior = FedSparse(), prior(groups, FedSparse())
    sent = np.mean([one.kept(None, number)[0] for number in range(count)], axis=0)
    pi = active(one.prior.log_alpha.detach().double()).numpy()
    assert (np.abs(sent - pi) < 4 * np.sqrt(pi * (1 - pi) / count)).all() and pi.min() < 0.4 < 0.8 < pi.max()
    assert np.array_equal(one.kept(None, 7)[0], one.kept(None, 7)[0])


def test_a_gate_costs_its_weights_or_one() -> None:
    groups = Groups.of(Net())
    costs = {per: prior(groups, FedSparse(lambda0_per=per)).costs.tolist() for per in ("weight", "gate")}
    assert costs == {"weight": groups.sizes.tolist(), "gate": [1.0] * groups.count} and max(groups.sizes) > 1


def test_the_final_model_is_hard_or_the_mean_of_its_gates() -> None:
    groups, theta = Groups((Site("l", True, 3),), {"l.weight": (2, 3)}), np.array([0.3, 0.6, 0.9])
    soft = deterministic(log_alpha_of(torch.from_numpy(theta))).numpy()
    arrays, alive = {"l.weight": np.ones((2, 3), np.float32)}, np.array([True, True, True])
    for own, gates in (({}, [0, 1, 1]), ({"final": "mean"}, soft), ({"final": "mean", "gates": "posterior"}, theta)):
        np.testing.assert_allclose(final(groups, arrays, theta, alive, FedSparse(**own))["l.weight"], [gates] * 2, rtol=1e-6)
    assert final(groups, arrays, theta, np.array([True, True, False]), FedSparse())["l.weight"].tolist() == [[0, 1, 0]] * 2


def test_the_server_goes_a_part_of_the_way_to_the_mean() -> None:
    made = server(**{"fedsparse.server-rate": 0.25})
    stage, before = Stage(1, "round", "train"), dict(made.shared)
    made.begin(stage)
    payload = reply(made, 0, made.drawn(1, 0), {name: 2 * array for name, array in made.shared.items()})
    made.expected_of(stage, 0, payload, made.expected(stage))
    made.absorb(stage, 0, payload)
    made.finish(stage)
    np.testing.assert_allclose(made.shared["11.bias"], 1.25 * before["11.bias"], rtol=1e-6)


def test_a_dense_download_holds_every_group() -> None:
    made = server(**{"fedsparse.down": "dense"})
    made.theta = np.full(made.groups.count, 0.05)
    assert made.drawn(1, 0).all()


def test_what_a_round_may_do_to_gates() -> None:
    """theta's floor until half of the rounds, tau from then on, and an end after two thirds, where nothing else is asked for."""

    def told(number: int, **own: Any) -> tuple[float, bool, bool]:
        turn = FedSparse(density=0.0, **own).turn(number, 12)
        return turn.least, turn.goes, turn.ends

    assert [told(n) for n in (5, 6, 8)] == [(0.05, False, False), (0.1, True, False), (0.1, True, True)]
    assert told(6, prune_start=7, theta_min=0.2) == (0.2, False, False) and told(7, prune_start=7, tau=0.3) == (0.3, True, False)
    assert told(3, settle_start=3)[2] and not told(8, settle_start=3)[2] and told(5, gates="posterior")[0] == 0


# Together with others


@pytest.mark.parametrize(
    "own",
    [
        {"fedsparse.up": "logits", "fedsparse.server-rate": 0.5, "fedsparse.final": "mean"},
        {"fedsparse.down": "dense", "fedsparse.lambda0-per": "gate", "codec": "stochastic-rounding"},
        {**HARD, "fedsparse.prune-start": 1, "fedsparse.lambda0": 0.05, "robust.clip-norm": 0.05},
        {"fedsparse.groups": "weights", "fedsparse.gate-rate": 500.0},
        {"fedsparse.falls": "whole", "fedsparse.up": "logits"},
        {"fedsparse.gates": "posterior", "fedsparse.groups": "weights", "fedsparse.density-rounds": 3},
        {"fedsparse.gates": "posterior", "fedsparse.density": 0.0},
    ],
)
def test_a_resumed_run_ends_in_the_same_model(own: dict[str, Value], tmp_path: Path) -> None:
    plan: dict[str, Value] = {"fedsparse.prune-start": 2, "fedsparse.density-rounds": 2, "fedsparse.settle-start": 2}
    settings: dict[str, Value] = {**SMALL, **plan, "fraction-train": 0.5, **own}
    whole = run("fedsparse", tmp_path / "whole", settings)
    run("fedsparse", tmp_path / "part", {**settings, "num-server-rounds": 2})
    part = run("fedsparse", tmp_path / "part", {**settings, "resume": True})
    assert same(part.model, whole.model)
    assert part.results["measures"] == whole.results["measures"]


def test_rounded_groups_take_the_bytes_of_their_bits(tmp_path: Path) -> None:
    settings: dict[str, Value] = {**SMALL, "num-server-rounds": 1}
    plain = run("fedsparse", tmp_path / "plain", settings).results["totals"]
    coded = run("fedsparse", tmp_path / "coded", {**settings, "codec": "stochastic-rounding"}).results["totals"]
    assert coded["bytes_down"] == plain["bytes_down"]
    assert coded["bytes_up"] < 0.16 * plain["bytes_up"]


def test_clients_that_fail_are_left_out(tmp_path: Path) -> None:
    """The model is that of a run which asked the others alone."""
    given: dict[str, Value] = {**SMALL, "num-server-rounds": 1, "min-replies": 1}
    struck = run("fedsparse", tmp_path / "one", {**given, "faults.kind": "crash", "faults.rate": 1.0, "faults.clients": "1,3"})
    cut = run("fedsparse", tmp_path / "two", {**given, "faults.kind": "truncated", "faults.rate": 1.0, "faults.clients": "1,3"})
    assert sum(bool(line["failure"]) for line in struck.ledger) == 2
    assert same(struck.model, cut.model)


@pytest.mark.parametrize(
    ("own", "why"),
    [
        ({"robust.rule": "krum"}, "robust.rule = 'krum' compares replies that are alike"),
        ({"robust.rule": "median"}, "robust.rule = 'median' compares replies that are alike"),
        ({"codec": "dp-rec"}, "codec = 'dp-rec' takes uploads that are alike"),
        ({"privacy": "dp-sgd"}, "tells which groups a client wants"),
        ({"objective": "mqat"}, "trains gates with the weights"),
        ({"model.norm": "batch", "model.name": "resnet8"}, "those of a part of a network"),
        ({"patience": 3}, r"patience = 3 may end method 'fedsparse' too early: the density falls to fedsparse\.density = 0\.2"),
        ({"target": 0.9, "fedsparse.gates": "posterior"}, r"target = 0\.9 may end .*; leave it 0$"),
    ],
)
def test_refusals(own: dict[str, Value], why: str) -> None:
    with pytest.raises(SettingError, match=why):
        check_run({"method": "fedsparse", **own}, 8)


@pytest.mark.parametrize("own", [{"fedsparse.density": 0.0}, {"fedsparse.gates": "on"}])
def test_without_a_planned_density_a_run_may_end_early(own: dict[str, Value]) -> None:
    check_run({"method": "fedsparse", "patience": 3, **own}, 8)


PLANS = ((0.2, 0, "a third of the planned"), (0.0, 0, "two thirds of the planned"), (0.0, 9, "half of the planned"))


def test_more_rounds_are_refused_where_half_of_them_is_the_plan(tmp_path: Path) -> None:
    for i, (density, settle, words) in enumerate(PLANS):
        plan: dict[str, Value] = {"fedsparse.density": density, "fedsparse.settle-start": settle}
        own: dict[str, Value] = {**SMALL, **plan, "num-server-rounds": 1}
        run("fedsparse", tmp_path / f"{i}", own)
        with pytest.raises(SettingError, match=words):
            run("fedsparse", tmp_path / f"{i}", {**own, "num-server-rounds": 2, "resume": True})


def test_the_server_keeps_no_message_that_one_client_alone_was_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedwarm.rounds import exchange

    kept: list[int] = []

    def noted(payload: Payload, encoded: Any = None) -> Any:
        kept.append(len(encoded))
        return to_records(payload, encoded)

    monkeypatch.setattr(exchange, "to_records", noted)
    run("fedsparse", tmp_path / "run", {**SMALL, "num-server-rounds": 1})
    assert max(kept[:4]) == 1

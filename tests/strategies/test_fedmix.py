"""FedMix and IFCA: FedAvg with one expert, what travels and what stays, and groups that are found."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch.nn import functional

import clients.fedmix
from fedwarm.catalogue import parse
from fedwarm.clients import trainer_class
from fedwarm.core.payload import Payload, PayloadError
from fedwarm.core.stages import Stage
from fedwarm.core.store import Store
from fedwarm.core.told import numbered
from fedwarm.data import load_shard
from fedwarm.data.node import Node
from fedwarm.data.settings import Data
from fedwarm.flower.wire import from_records
from fedwarm.launch.preflight import check_run
from fedwarm.methods.fedmix import FedMix as Settings
from fedwarm.models import Model, build_model
from fedwarm.rounds.experts import Experts
from fedwarm.rounds.fleet import Fleet, Member
from fedwarm.settings.fields import SettingError, Value
from fedwarm.strategies import strategy_class
from fedwarm.training.evaluate import predict
from fedwarm.training.mixture import Terms
from tests.runs import Outcome, run, same

SMALL: dict[str, Value] = {
    "num-server-rounds": 3, "local-epochs": 1, "data.max-examples": 24, "data.image-size": 8, "learning-rate": 0.05,
    "model.name": "logistic", "server-threads": 1, "fedmix.gate-warmup": 1,
}  # fmt: skip
GROUPS: dict[str, Value] = {
    **SMALL, "data.name": "planted", "planted.change": "labels", "planted.groups": 2, "data.max-examples": 100, "batch-size": 10,
    "model.name": "edges", "learning-rate": 0.1, "num-server-rounds": 6, "fedmix.experts": 2, "fedmix.gate-warmup": 0,
}  # fmt: skip


def expert(outcome: Outcome, k: int) -> dict[str, Any]:
    return numbered(dict(outcome.model), "expert")[k]


def sent(outcome: Outcome, action: str = "round") -> list[Payload]:
    return [from_records(m.content) for m in outcome.asked(action)]


def answered(outcome: Outcome) -> list[Payload]:
    return [from_records(m.content) for m in outcome.answered("round")]


@pytest.mark.parametrize(("method", "one"), [("fedmix", "fedmix.experts"), ("ifca", "ifca.clusters")])
def test_one_expert_is_fedavg_bit_for_bit(method: str, one: str, tmp_path: Path) -> None:
    settings: dict[str, Value] = {**SMALL, "fraction-train": 0.5, "momentum": 0.9, "weight-decay": 0.01}
    plain, alone = run("fedavg", tmp_path / "fedavg", settings), run(method, tmp_path / method, {**settings, one: 1})
    assert same(expert(alone, 0), plain.model) and len(alone.model) == len(plain.model)
    ends = [o.results["rounds"][-1] for o in (alone, plain)]
    found = ends[0]["global"] if method == "fedmix" else ends[0]["personal"]
    assert found["per_client"] == ends[1]["global"]["per_client"] and ends[0]["train_loss"] == ends[1]["train_loss"]
    assert alone.results["totals"]["bytes_up"] == plain.results["totals"]["bytes_up"]


def test_four_experts_are_four_times_the_bytes_and_a_selection_is_its_own(tmp_path: Path) -> None:
    """Payload and wire, both ways; 4 + 4 bytes a number and header, for each expert that a client has."""
    plain = run("fedavg", tmp_path / "fedavg", SMALL).results["totals"]
    all_of_them = run("fedmix", tmp_path / "all", SMALL).results["totals"]
    for way in ("bytes_up", "bytes_down"):
        assert all_of_them[way] == 4 * plain[way]
    chosen = run("fedmix", tmp_path / "top", {**SMALL, "fedmix.select": "top_m", "fedmix.top": 2, "fedmix.refresh": 2})
    rounds = [line for line in chosen.ledger if line["stage"] == "round"]
    sets = [numbered(p.arrays, "expert").keys() for p in sent(chosen)]
    assert [len(each) for each in sets] == [4] * 4 + [2] * 4 + [4] * 4
    size = 4 * sum(array.size for array in expert(chosen, 0).values())
    assert [line["payload_bytes_down"] for line in rounds] == [len(each) * size for each in sets]
    for line, reply, was in zip(rounds, answered(chosen), sets, strict=True):
        trained = numbered(reply.arrays, "expert").keys()
        assert line["payload_bytes_up"] == len(trained) * size and trained <= was
        assert {int(name.removeprefix("mass-")) for name in reply.metrics if name.startswith("mass-")} == was
        assert abs(sum(reply.metrics[f"mass-{k}"] for k in was) - 24) < 1e-9


@pytest.mark.parametrize("gate", ["own_net", "bias", "trunk", "aligned"])
def test_no_gate_ever_leaves_its_client(gate: str, tmp_path: Path) -> None:
    """No array of any message has a gate's name, and none of its numbers are on the way, in either direction."""
    outcome = run("fedmix", tmp_path / "run", {**SMALL, "fedmix.gate": gate, "num-server-rounds": 2})
    kept = [load_file(path) for path in sorted((tmp_path / "run" / "clients").glob("*/*/gate.*.safetensors"))]
    assert len(kept) == 4 * 2
    private = {row.tobytes() for gates in kept for array in gates.values() for row in np.atleast_2d(array) if row.any()}
    assert private
    for message in (*outcome.messages, *outcome.replies):
        arrays = from_records(message.content).arrays
        assert {name.partition("/")[0].partition("-")[0] for name in arrays} <= {"expert", "trunk"}
        assert not [name for name, array in arrays.items() for row in private if row in np.ascontiguousarray(array).tobytes()]


def test_a_trunk_that_too_few_answer_for_stays(tmp_path: Path) -> None:
    """As experts do: Krum compares three replies, and two of six clients answer."""
    faults: dict[str, Value] = {"faults.kind": "crash", "faults.rate": 1.0, "faults.clients": "0,1,2,3", "min-replies": 1}
    given: dict[str, Value] = {**SMALL, **faults, "num-server-rounds": 1, "fedmix.gate": "trunk", "robust.rule": "krum"}
    outcome = run("fedmix", tmp_path / "run", {**given, "robust.byzantine": 0, "model.name": "mlp"}, clients=6)
    assert len(answered(outcome)) == 2 and same(outcome.model, sent(outcome)[0].arrays)


def test_alike_experts_stay_alike_and_others_come_apart(tmp_path: Path) -> None:
    """To the bit over five rounds from uniform gates; experts of different seeds move away from each other."""
    five: dict[str, Value] = {**SMALL, "num-server-rounds": 5, "fedmix.experts": 3}
    alike = run("fedmix", tmp_path / "alike", {**five, "fedmix.init": "noise", "fedmix.init-scale": 0.0})
    assert same(expert(alike, 0), expert(alike, 1)) and same(expert(alike, 0), expert(alike, 2))
    shares = np.array(alike.results["measures"]["usage"]["clients"]) / 24
    assert np.abs(shares - 1 / 3).max() < 0.02
    apart = run("fedmix", tmp_path / "apart", five)

    def distance(arrays: dict[str, Any]) -> float:
        experts = numbered(arrays, "expert")
        return float(
            np.mean([np.linalg.norm(experts[i]["1.weight"] - experts[j]["1.weight"]) for i in range(3) for j in range(i)])
        )

    assert distance(apart.model) > distance(sent(apart)[0].arrays)


def test_planted_groups_are_found_and_pay(tmp_path: Path) -> None:
    """Exchanged labels, two groups of two clients: each group has an expert, and its clients do better than by FedAvg."""
    mix, plain = run("fedmix", tmp_path / "mix", GROUPS), run("fedavg", tmp_path / "plain", GROUPS)
    used = np.array(mix.results["measures"]["usage"]["clients"]).argmax(1)
    assert len({*used[::2]}) == len({*used[1::2]}) == 1 and used[0] != used[1]
    assert mix.results["final"]["personal"]["mean"] > plain.results["final"]["global"]["accuracy"] + 0.1


def test_one_model_of_private_steps_is_measured(tmp_path: Path) -> None:
    outcome = run("ifca", tmp_path / "run", {**SMALL, "num-server-rounds": 1, "ifca.clusters": 1, "privacy": "dp-sgd"})
    assert outcome.results["privacy"] and 0 <= outcome.results["final"]["personal"]["mean"] <= 1


def test_ifca_trains_the_model_that_suits_a_client_best(tmp_path: Path) -> None:
    """All models go down and one comes up: that with the least loss on the client's training images."""
    outcome = run("ifca", tmp_path / "run", {**GROUPS, "ifca.clusters": 2})
    config = parse({"method": "ifca", **GROUPS})
    for message, answer, client in zip(sent(outcome), answered(outcome), [0, 1, 2, 3] * 6, strict=True):
        shard, losses = load_shard(config.of(Data), 0, client, 4), []
        for own in numbered(message.arrays, "expert").values():
            model = build_model(config.of(Model), 10, 8, 0, {name: torch.from_numpy(array.copy()) for name, array in own.items()})
            losses.append(float(functional.cross_entropy(predict(model, shard.train_images), shard.train_labels)))
        (k,) = numbered(answer.arrays, "expert")
        assert len(losses) == 2 and losses[k] == min(losses) and answer.facts["trained"] == [k]


def test_a_client_without_a_gate_is_answered_by_the_prior(tmp_path: Path) -> None:
    """One that never trains: by what all clients use, which is what the global model answers by, too."""
    never: dict[str, Value] = {"faults.kind": "crash", "faults.rate": 1.0, "faults.clients": "3", "min-replies": 3}
    outcome = run("fedmix", tmp_path / "run", {**SMALL, **never})
    last, usage = outcome.results["rounds"][-1], outcome.results["measures"]["usage"]["clients"]
    assert usage[3] is None and last["personal"]["per_client"][3] == last["global"]["per_client"][3]
    told = sent(outcome, "evaluate")[-1]
    shares = np.array([told.metrics[f"prior-{k}"] for k in range(4)])
    assert np.allclose(shares, np.sum([u for u in usage if u], axis=0) / (3 * 24), atol=1e-4)


def test_a_run_goes_on_as_it_would_have(tmp_path: Path) -> None:
    settings: dict[str, Value] = {**SMALL, "fedmix.select": "top_m", "fedmix.server-momentum": 0.5, "fraction-train": 0.5}
    whole = run("fedmix", tmp_path / "whole", settings)
    run("fedmix", tmp_path / "parts", {**settings, "num-server-rounds": 2})
    parts = run("fedmix", tmp_path / "parts", {**settings, "resume": True})
    assert same(whole.model, parts.model) and whole.results["measures"] == parts.results["measures"]


@pytest.mark.parametrize(
    "settings",
    [{"codec": "stochastic-rounding", "fedmix.select": "top_m"}, {"robust.rule": "median"}, {"robust.clip-norm": 0.1}],
    ids=str,
)
def test_it_goes_with_codecs_and_robust_rules(settings: dict[str, Value], tmp_path: Path) -> None:
    outcome = run("fedmix", tmp_path / "run", {**SMALL, **settings})
    assert not any(line["failure"] for line in outcome.ledger)
    assert all(np.isfinite(array).all() for array in outcome.model.values())


def server(clients: int = 40, **own: Value) -> Experts:
    """A server that knows its clients, without any."""
    settings = {name if "." in name else f"fedmix.{name.replace('_', '-')}": value for name, value in own.items()}
    made: Experts = strategy_class("fedmix")(parse({"method": "fedmix", **SMALL, **settings}))
    classes = tuple(str(c) for c in range(10))
    members = tuple(Member(i, i, 24, 0, tuple(range(10)), None) for i in range(clients))
    made.fleet = Fleet(members, classes, 8)
    made.record.open(made.config, classes, [None] * clients)
    made.arrays = made.initial_arrays()
    return made


def reply(made: Experts, masses: dict[int, float], value: float) -> Payload:
    arrays = {name: np.full_like(array, value) for name, array in made.of(tuple(masses)).items()}
    told: dict[str, int | float] = {"num-examples": 24, **{f"mass-{k}": mass for k, mass in masses.items()}}
    return Payload("weights", arrays, told, {"trained": [*masses]})


ROUND = Stage(1, "round", "train", (0, 1))


def test_experts_are_means_by_mass_and_stay_where_nobody_trains_them() -> None:
    """w_k = sum_s N_sk w_sk / N_k; one with less than `least-mass` images is as before."""
    made = server()
    before = numbered(made.arrays, "expert")
    made.begin(ROUND)
    made.absorb(ROUND, 0, reply(made, {0: 18.0, 1: 6.0}, 1.0))
    made.absorb(ROUND, 1, reply(made, {0: 6.0, 2: 0.5}, 3.0))
    made.finish(ROUND)
    after = numbered(made.arrays, "expert")
    assert np.allclose(after[0]["1.weight"], 1.5) and np.allclose(after[1]["1.weight"], 1.0)
    assert all(np.array_equal(after[k][name], before[k][name]) for k in (2, 3) for name in before[k])
    assert made.totals == [[24.0, 6.0, 0.5, 0.0]]
    ways = [value - before[0]["1.weight"].astype(np.float64) for value in (1.0, 1.5, 3.0)]
    biases = [value - before[0]["1.bias"].astype(np.float64) for value in (1.0, 1.5, 3.0)]
    one, mean, other = ((way**2).sum() + (bias**2).sum() for way, bias in zip(ways, biases, strict=True))
    assert made.spreads[0][0] == pytest.approx((0.75 * one + 0.25 * other - mean) / mean, abs=1e-3)
    assert made.spreads[0][1] == pytest.approx(0, abs=1e-3) and made.spreads[0][2:] == [None, None]


def test_the_server_steps_with_momentum() -> None:
    made = server(server_learning_rate=0.5, server_momentum=0.5)
    made.arrays = {name: np.zeros_like(array) for name, array in made.arrays.items()}
    for value, expected in ((1.0, 0.5), (1.0, 1.0)):  # v = 1, w = 0.5; v = 0.5 + (1 - 0.5), w = 1
        made.begin(ROUND)
        made.absorb(ROUND, 0, reply(made, {0: 24.0}, value))
        made.finish(ROUND)
        assert np.allclose(numbered(made.arrays, "expert")[0]["1.weight"], expected)


@pytest.mark.parametrize("told", [[], [0, 9], [1, 0], [0, 0], ["a"], 5])
def test_a_reply_with_experts_that_it_was_not_sent_is_refused(told: Any) -> None:
    made = server()
    with pytest.raises(PayloadError, match="of which it must train some"):
        made.expected_of(ROUND, 0, Payload("weights", {}, {}, {"trained": told}), made.arrays)


@pytest.mark.parametrize("masses", [{0: -1.0}, {0: 20.0, 1: 5.0}, {0: float("nan")}])
def test_masses_that_cannot_be_are_refused(masses: dict[int, float]) -> None:
    made = server()
    with pytest.raises(PayloadError):
        made.check(ROUND, reply(made, masses, 1.0))


def test_memory_does_not_grow_with_the_number_of_replies() -> None:
    peaks = []
    for count in (4, 40):
        made = server()
        made.begin(ROUND)
        tracemalloc.start()
        for client in range(count):
            made.absorb(ROUND, client, reply(made, {0: 12.0, 1: 12.0}, 1.0))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_what_is_selected() -> None:
    mass = [1.0, 12.0, 0.0, 7.0]
    assert Settings(select="threshold", tau=0.05).selected(mass) == (0, 1, 3)
    assert Settings(select="threshold", tau=0.9).selected(mass) == (1,)
    assert Settings(select="top_m", top=2).selected(mass) == (1, 3)
    assert Settings(select="top_m").selected([5.0, 5.0]) == (0,)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"codec": "dp-rec"}, "hides what clients hold"),
        (
            {"privacy": "dp-sgd"},
            "fedmix.norm = 'per_expert' is not covered by privacy = 'dp-sgd'; set fedmix.norm = 'per_client'",
        ),
        ({"optimiser": "adamw"}, "makes each expert's step as long as its share"),
        ({"objective": "kure"}, "by the mixture's likelihood alone"),
        ({"data.test": "central"}, "fedmix has none"),
    ],
)
def test_what_does_not_go_together_is_refused_before_the_run(given: dict[str, Value], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        check_run({"method": "fedmix", **given}, 4)


def test_masses_are_parts_of_a_client_s_weight(tmp_path: Path) -> None:
    """Also where generated images are among those that it trains on, and real ones alone count."""
    settings: dict[str, Value] = {**SMALL, "num-server-rounds": 1, "augment": "gen-fedsd", "gen-fedsd.provider": "transforms"}
    outcome = run("fedmix", tmp_path / "run", {**settings, "gen-fedsd.weight-by": "real"})
    assert not any(line["failure"] for line in outcome.ledger)
    for answer in outcome.answered("train"):
        told = from_records(answer.content).metrics
        assert sum(v for k, v in told.items() if k.startswith("mass-")) == pytest.approx(told["num-examples"], rel=1e-4)


# What settings choose


def client(folder: Path, **own: Value) -> Any:
    """One of two clients, without any server."""
    settings = {f"fedmix.{name.replace('_', '-')}": value for name, value in own.items()}
    config = parse({"method": "fedmix", **SMALL, "fedmix.experts": 2, **settings})
    return trainer_class("fedmix")(config, Node(0, 2, Store(folder, "ab", 0, 64)))


def answering(first: float, second: float, **told: float) -> Payload:
    """Two experts: one says class 8 for everything and the other 6, as surely as these logits are high."""
    arrays = {}
    for k, (label, sure) in enumerate(((8, first), (6, second))):
        bias = np.zeros(10, np.float32)
        bias[label] = sure
        arrays |= {f"expert-{k}/1.weight": np.zeros((10, 192), np.float32), f"expert-{k}/1.bias": bias}
    shares = {"prior-0": 0.5, "prior-1": 0.5, **{name.replace("_", "-"): value for name, value in told.items()}}
    return Payload("weights", arrays, {"round": 3, **shares}, {"experts": [0, 1]})


@pytest.mark.parametrize(("predict", "label"), [("mixture", 6), ("argmax", 8)])
def test_a_client_s_prediction_is_its_mixture_s_or_its_likeliest_expert_s(predict: str, label: int, tmp_path: Path) -> None:
    """.6 of an unsure expert and .4 of a sure one."""
    one = client(tmp_path, gate="bias", predict=predict)
    one.node.store.save("gate", {"logits": torch.tensor([0.6, 0.4]).log()}, 2)
    one.real = replace(one.real, test_labels=torch.full_like(one.real.test_labels, label))
    assert one.evaluate(answering(1.0, 9.0)).metrics["correct-personal"] == len(one.real.test_labels) > 0


@pytest.mark.parametrize(("new_client", "label"), [("prior", 8), ("uniform", 6)])
def test_who_has_no_gate_is_answered_by_the_prior_or_by_all_alike(new_client: str, label: int, tmp_path: Path) -> None:
    one = client(tmp_path, new_client=new_client)
    one.real = replace(one.real, test_labels=torch.full_like(one.real.test_labels, label))
    found = one.evaluate(answering(2.0, 9.0, prior_0=0.9, prior_1=0.1)).metrics
    assert found["correct-global"] == found["correct-personal"] == len(one.real.test_labels) > 0


def test_a_gate_warms_up_on_experts_that_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, steps, true = client(tmp_path, gate_warmup=3, gate_rate=0.5), list[int](), clients.fedmix.fit

    def fit(*given: Any) -> Any:
        done = true(*given)
        steps.append(done.steps)
        return done

    monkeypatch.setattr(clients.fedmix, "fit", fit)
    mixture = one.mixture(server(experts=2).arrays, one.new_gate())
    before = {name: p.detach().clone() for name, p in mixture.named_parameters()}
    one.warm(mixture, one.terms(mixture, Payload()), 1)
    moved = {name for name, p in mixture.named_parameters() if not torch.equal(p, before[name])}
    assert steps == [3] and moved and all(name.startswith("gate.") for name in moved)
    assert all(p.requires_grad for p in mixture.parameters())


def test_settings_are_the_terms_of_a_step(tmp_path: Path) -> None:
    one = client(tmp_path, norm="per_client", gate_rate=0.5, usage_entropy_client=0.2, usage_entropy_global=0.3, gate="aligned")
    found = one.terms(
        one.mixture(server(experts=2, gate="aligned").arrays, one.new_gate()), answering(1, 1, prior_0=3.0, prior_1=1.0)
    )
    assert found.prior.tolist() == [0.75, 0.25]
    assert replace(found, prior=None) == Terms("per_client", 0.5, 0.2, None, 0.3, 0.01)


@pytest.mark.parametrize(("norm", "mean"), [("per_expert", 1.5), ("per_client", 2.0)])
def test_experts_are_weighed_by_mass_or_by_images(norm: str, mean: float) -> None:
    made = server(norm=norm)
    made.begin(ROUND)
    for number, mass, value in ((0, 18.0, 1.0), (1, 6.0, 3.0)):
        made.absorb(ROUND, number, reply(made, {0: mass}, value))
    made.finish(ROUND)
    assert np.allclose(numbered(made.arrays, "expert")[0]["1.weight"], mean)


def test_a_trunk_is_weighed_by_images() -> None:
    made = server(gate="trunk", **{"model.name": "mlp"})
    made.begin(ROUND)
    for number, images, value in ((0, 30, 1.0), (1, 10, 3.0)):
        told = reply(made, {0: 1.0}, value)
        made.absorb(ROUND, number, replace(told, metrics={**told.metrics, "num-examples": images}))
    made.finish(ROUND)
    trunk = {name: array for name, array in made.arrays.items() if name.startswith("trunk/")}
    assert trunk and all(np.allclose(array, 1.5) for array in trunk.values())


def test_experts_may_begin_alike_under_gates_that_are_drawn_or_apart_by_noise(tmp_path: Path) -> None:
    alike, noisy = (numbered(server(experts=3, init=init, init_scale=0.2).arrays, "expert") for init in ("gates", "noise"))
    assert same(alike[0], alike[1]) and same(alike[0], alike[2]) and same(alike[0], noisy[0])
    for k in (1, 2):
        apart = noisy[k]["1.weight"] - noisy[0]["1.weight"]
        assert apart.std() == pytest.approx(0.2 * noisy[0]["1.weight"].std(), rel=0.1)
    assert not np.array_equal(noisy[1]["1.weight"], noisy[2]["1.weight"])
    drawn, uniform = (client(tmp_path, init=init, gate="bias", init_scale=0.2).new_gate().logits for init in ("gates", "seeds"))
    assert not uniform.any() and 0 < drawn.abs().max() < 1

"""Codecs over methods, by settings alone: what travels, what the server makes of it, what is said of privacy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedwarm.catalogue import parse
from fedwarm.codecs.dp_rec.codec import stream_of
from fedwarm.codecs.dp_rec.plan import codec_of, release_of
from fedwarm.codecs.dp_rec.settings import DpRec
from fedwarm.coding.layout import Layout
from fedwarm.core.payload import Payload
from fedwarm.core.stages import Place
from fedwarm.flower.wire import from_records
from fedwarm.privacy.accountant import Accountant
from fedwarm.settings.fields import SettingError, Value
from strategies import strategy_class
from strategies.fedavg import FedAvg
from tests.runs import SMALL_WARMFED, Outcome, run, same

FAST: dict[str, Value] = {"num-server-rounds": 2, "local-epochs": 1, "data.max-examples": 24, "data.image-size": 8}
REC: dict[str, Value] = {"codec": "dp-rec", "dp-rec.bits": 4, "dp-rec.sigma": 0.5, "dp-rec.entropy": "seeded"}
WARM: dict[str, Value] = {**SMALL_WARMFED, "data.max-examples": 12, "diffusion.sample-steps": 2, "warmfed.protocol": "five-round",
                          "num-server-rounds": 1, "server-threads": 1}  # fmt: skip
ROUNDED: dict[str, Value] = {"codec": "stochastic-rounding", "stochastic-rounding.bits": 4}


def uploads(outcome: Outcome, action: str = "round") -> list[Payload]:
    return [from_records(r.content) for r in outcome.answered(action)]


@pytest.fixture(scope="module")
def coded(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run("fedprox", tmp_path_factory.mktemp("coded") / "run", {**FAST, **REC})


def test_a_method_under_dp_rec_sends_code_words_alone(coded: Outcome) -> None:
    said = uploads(coded)
    assert len(said) == 8
    for payload in said:
        assert (payload.kind, list(payload.arrays), payload.metrics, list(payload.facts)) == ("words", ["words"], {}, ["ticket"])
    described = uploads(coded, "describe")
    assert {(p.metrics["num-examples"], p.metrics["num-test"]) for p in described} == {(1, 0)}
    assert all("counts" not in p.facts and p.facts["present"] == list(range(10)) for p in described)
    totals = coded.results["totals"]
    words = len(said[0].arrays["words"])
    assert totals["bits_per_parameter_up"] == pytest.approx(8 * words / totals["parameters"])
    assert {row["payload_bytes_up"] for row in coded.ledger if row["stage"] == "round"} == {words}


def test_the_server_averages_the_decoded_models(coded: Outcome) -> None:
    """Two rounds by hand: equal weights, each client's update decoded by its own stream."""
    config = parse({"method": "fedprox", **FAST, **REC})
    strategy = FedAvg(config)
    first = from_records(next(m for m in coded.messages if m.metadata.message_type == "train").content)
    sent = [p.arrays["words"].tobytes() for p in uploads(coded)]
    arrays = dict(first.arrays)
    for number in (1, 2):
        mean, layout = strategy.aggregator(), Layout.of(arrays)
        codec = codec_of(config.of(DpRec), layout.sizes, 0.5)
        for client in range(4):
            step = codec.decode(sent[(number - 1) * 4 + client], stream_of(Place(0, "round", number, client)))
            mean.add(layout.moved(arrays, step), 1)
        arrays = mean.result()
    assert same(arrays, coded.model)


def test_it_is_accounted_for(coded: Outcome) -> None:
    config = parse({"method": "fedprox", **FAST, **REC})
    account = Accountant(1e-5)
    account.spend(release_of(config.of(DpRec), Layout.of(coded.model).sizes, 0.5), (0,), 2)
    told = coded.results["privacy"]
    assert told["epsilon"] == pytest.approx(account.epsilon()) and told["epsilon"] > 0
    assert (told["view"], told["adjacency"], told["sigma"], told["clip"]) == ("local", "zero_out", 0.5, 1.0)
    assert any("seeded" in note for note in coded.results["notes"])


@pytest.mark.parametrize("mechanism", ["none", "gaussian"])
def test_other_mechanisms_wrap_too(mechanism: str, tmp_path: Path) -> None:
    told = run("fedprox", tmp_path / "run", {**FAST, **REC, "dp-rec.mechanism": mechanism}).results
    assert (told["privacy"] is None) == (mechanism == "none")
    assert told["totals"]["bits_per_parameter_up"] == pytest.approx(32)


@pytest.mark.parametrize("settings", [REC, ROUNDED], ids=["dp-rec", "stochastic-rounding"])
def test_workers_give_the_same_model(settings: dict[str, Value], tmp_path: Path) -> None:
    one = run("fedavg", tmp_path / "one", {**FAST, **settings})
    two = run("fedavg", tmp_path / "two", {**FAST, **settings}, workers=2)
    assert same(one.model, two.model) and one.results["privacy"] == two.results["privacy"]


@pytest.mark.long
def test_warmfed_composes(tmp_path: Path) -> None:
    """The adapter of each client and its model of each round, both as code words; one epsilon for all of it."""
    told = run("warmfed", tmp_path / "run", {**WARM, **REC})
    adapters, rounds = uploads(told, "adapt"), uploads(told)
    assert len(adapters) == len(rounds) == 4
    assert all(list(p.arrays) == ["words"] and "num-examples" not in p.metrics for p in [*adapters, *rounds])
    assert {"fingerprint", "rank", "alpha"} <= set(adapters[0].facts)
    config = parse({"method": "warmfed", **WARM, **REC})
    account = Accountant(1e-5)
    adapter = Layout.of(strategy_class("warmfed")(config).parts.whole)
    assert adapter.total == 66_304
    for sizes in (adapter.sizes, Layout.of(told.model).sizes):
        account.spend(release_of(config.of(DpRec), sizes, 0.5), (0,))
    assert told.results["privacy"]["epsilon"] == pytest.approx(account.epsilon())
    assert (told.folder / "adapters" / "client-3" / "pytorch_lora_weights.safetensors").is_file()
    assert told.results["totals"]["bits_per_parameter_up"] < 0.01


@pytest.mark.long
def test_an_adapter_is_decoded_from_its_own_first_matrices(tmp_path: Path) -> None:
    """Without noise and clip only (`none`), what the server holds is what the client tuned: first matrices plus the update."""
    settings: dict[str, Value] = {**SMALL_WARMFED, "data.max-examples": 12, "diffusion.sample-steps": 2, "server-threads": 1}
    plain = run("warmfed", tmp_path / "plain", settings)
    free: dict[str, Value] = {**settings, **REC, "dp-rec.mechanism": "none", "dp-rec.clip": 1e6}
    coded = run("warmfed", tmp_path / "coded", free)
    for client in range(4):
        name = Path("adapters") / f"client-{client}" / "pytorch_lora_weights.safetensors"
        a, b = (_tensors(o.folder / name) for o in (plain, coded))
        assert a.keys() == b.keys() and all(np.allclose(a[n], b[n], atol=1e-6) for n in a)


def _tensors(path: Path) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    from safetensors.numpy import load_file

    return load_file(path)


@pytest.mark.long
def test_stochastic_rounding_costs_its_bits_and_learns_like_dense(tmp_path: Path) -> None:
    settings: dict[str, Value] = {"num-server-rounds": 8, "data.max-examples": 120, "learning-rate": 0.02}
    dense = run("fedavg", tmp_path / "dense", settings)
    coarse = run("fedavg", tmp_path / "coarse", {**settings, **ROUNDED})
    said = uploads(coarse)[0]
    assert list(said.arrays) == ["words"]
    assert said.arrays["words"].size == sum(-(-4 * a.size // 8) + 4 for a in dense.model.values())
    assert said.metrics["num-examples"] == 120
    totals = coarse.results["totals"]
    assert totals["bits_per_parameter_up"] == pytest.approx(4, rel=0.01)
    reached = [o.results["final"]["global"]["accuracy"] for o in (dense, coarse)]
    assert reached[1] > reached[0] - 0.05 and reached[0] > 0.5


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"method": "dp_rec", "codec": "dp-rec"}, "codes its updates itself"),
        ({"method": "dp_rec", "codec": "stochastic-rounding"}, "codes its updates itself"),
        ({**REC, "dp-rec.view": "central_certified"}, "must be 'local'"),
        ({**REC, "dp-rec.downlink": "replay"}, "must be 'dense'"),
        ({**REC, "dp-rec.prior": "last"}, "must be 'zero'"),
        ({**REC, "dp-rec.block-rule": "kl_adaptive"}, "fixed_size or per_tensor"),
    ],
)
def test_what_does_not_go_together_is_refused(settings: dict[str, Value], why: str) -> None:
    given = {"method": "fedprox", **FAST, **settings}
    with pytest.raises(SettingError, match=why):
        strategy_class(str(given["method"]))(parse(given))


def test_a_run_that_would_pass_the_budget_does_not_begin(tmp_path: Path) -> None:
    settings: dict[str, Value] = {**FAST, **REC, "dp-rec.target-epsilon": 1.0}
    with pytest.raises(SettingError, match="the planned run reaches epsilon"):
        run("fedprox", tmp_path / "run", settings)


def test_a_target_makes_the_noise(tmp_path: Path) -> None:
    settings: dict[str, Value] = {**FAST, **REC, "dp-rec.sigma": 0.0, "dp-rec.target-epsilon": 3.0}
    told = run("fedprox", tmp_path / "run", settings).results["privacy"]
    assert 2.9 < told["epsilon"] <= 3.0

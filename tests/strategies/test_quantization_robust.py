"""Quantization-robust FedAvg end to end on real digits, and its objectives under other methods."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from fedwarm.catalogue import parse
from fedwarm.data.settings import Data
from fedwarm.flower.wire import from_records
from fedwarm.models import Model, build_model
from fedwarm.objectives import is_learned
from fedwarm.settings.fields import SettingError, Value
from tests.runs import SMALL_WARMFED, Outcome, run, same

FAST: dict[str, Value] = {
    "num-server-rounds": 2, "local-epochs": 2, "data.max-examples": 40, "data.image-size": 8, "server-threads": 1,
}  # fmt: skip
LEARNED: dict[str, Value] = {**FAST, "quantization-robust.variant": "qat", "quantization-robust.range": "learned",
                             "quantization-robust.quantize-activations": True}  # fmt: skip


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Outcome]:
    """FedAvg's run of so many rounds."""

    @cache
    def get(rounds: int) -> Outcome:
        return run("fedavg", tmp_path_factory.mktemp("fedavg") / "run", {**FAST, "num-server-rounds": rounds})

    return get


@pytest.mark.parametrize(
    "settings",
    [
        {"quantization-robust.variant": "mqat", "quantization-robust.train-bits": "32"},
        {"quantization-robust.variant": "kure", "quantization-robust.kure-weight": 0.0},
        {"quantization-robust.variant": "apqn", "quantization-robust.noise-scale": 0.0},
        {"quantization-robust.variant": "qat", "quantization-robust.bits": 32},
    ],
    ids=lambda s: str(s["quantization-robust.variant"]),
)
def test_without_strength_it_is_fedavg_bit_for_bit(
    settings: dict[str, Value], plain: Callable[[int], Outcome], tmp_path: Path
) -> None:
    fedavg = plain(3)
    robust = run("quantization_robust", tmp_path / "robust", {**FAST, "num-server-rounds": 3, **settings})
    assert same(fedavg.model, robust.model)
    assert fedavg.results["totals"]["bytes_up"] == robust.results["totals"]["bytes_up"]
    assert fedavg.results["totals"]["bytes_down"] == robust.results["totals"]["bytes_down"]


@pytest.mark.parametrize("variant", ["kure", "apqn", "qat", "mqat", "rq"])
def test_every_variant_trains_and_is_measured_at_every_width(
    variant: str, plain: Callable[[int], Outcome], tmp_path: Path
) -> None:
    settings: dict[str, Value] = {**FAST, "quantization-robust.variant": variant, "quantization-robust.kure-warmup": 0}
    outcome = run("quantization_robust", tmp_path / "run", settings)
    assert not same({n: a for n, a in outcome.model.items() if not is_learned(n)}, plain(2).model)
    found = outcome.results["final"]["bit_widths"]
    assert list(found) == [f"w{b}" for b in range(8, 1, -1)] + [f"w{b}a{b}" for b in range(8, 1, -1)]
    assert all(0 <= a <= 1 for a in found.values())
    assert abs(found["w8"] - outcome.results["final"]["global"]["accuracy"]) < 0.05
    assert outcome.results["rounds"][-1]["bytes_evaluation"] > 0
    assert {row["stage"] for row in outcome.ledger} == {"round", "evaluate", "widths"}


@pytest.mark.long
def test_objectives_compose_with_other_methods(tmp_path: Path) -> None:
    given: dict[str, Value] = {**FAST, "objective": "mqat", "evaluate.bit-widths": "4,32", "evaluate.activations": False}
    ready = run("quantization_robust", tmp_path / "ready", FAST)
    composed = run("fedavg", tmp_path / "fedavg", given)
    assert same(ready.model, composed.model)
    final = composed.results["final"]
    assert list(final["bit_widths"]) == ["w4", "w32"] and final["bit_widths"]["w32"] == final["global"]["accuracy"]
    proximal = run("fedprox", tmp_path / "fedprox", {**given, "fedprox.mu": 1.0})
    assert not same(proximal.model, composed.model)
    private = run("dp_rec", tmp_path / "dp_rec", {**given, "dp-rec.entropy": "seeded"})
    assert set(private.results["final"]["bit_widths"]) == {"w4", "w32"}


def test_learned_steps_travel_as_logarithms_and_are_averaged(tmp_path: Path) -> None:
    outcome = run("quantization_robust", tmp_path / "run", LEARNED)
    said = [from_records(r.content) for r in outcome.replies if r.metadata.message_type == "train"]
    names = [name for name in said[0].arrays if is_learned(name)]
    assert names and all(list(p.arrays) == list(said[0].arrays) for p in said)
    weights = [p.metrics["num-examples"] for p in said[4:]]
    for name in names:
        mean = np.average([p.arrays[name] for p in said[4:]], axis=0, weights=weights)
        assert np.allclose(outcome.model[name], mean, atol=1e-6)
    sent = [from_records(m.content) for m in outcome.messages if m.metadata.message_type == "train"]
    assert not any(is_learned(name) for name in sent[0].arrays) and set(names) <= set(sent[4].arrays)


def test_learned_steps_travel_rounded_too(tmp_path: Path) -> None:
    outcome = run("quantization_robust", tmp_path / "run", {**LEARNED, "codec": "stochastic-rounding"})
    assert outcome.results["complete"] and any(is_learned(name) for name in outcome.model)


def test_a_norm_clips_what_the_server_knows_and_lets_new_steps_pass(tmp_path: Path) -> None:
    """In the first round nothing is known of learned steps, so that a distance to them means nothing; then they are clipped."""
    outcome = run("quantization_robust", tmp_path / "run", {**LEARNED, "robust.clip-norm": 0.5})
    said = [from_records(r.content).arrays for r in outcome.replies if r.metadata.message_type == "train"]
    sent = [from_records(m.content).arrays for m in outcome.messages if m.metadata.message_type == "train"]
    new = [name for name in said[0] if is_learned(name)]
    weights = [from_records(r.content).metrics["num-examples"] for r in outcome.replies if r.metadata.message_type == "train"][:4]
    for name in new:
        assert np.allclose(sent[4][name], np.average([a[name] for a in said[:4]], axis=0, weights=weights), atol=1e-6)
    for start, end in ((sent[0], sent[4]), (sent[4], outcome.model)):
        assert 0 < np.sqrt(sum(float(np.square(end[n] - start[n]).sum()) for n in start)) <= 0.5 + 1e-5


@pytest.mark.long
def test_classifiers_that_are_uploaded_with_adapters_train_by_the_objective(tmp_path: Path) -> None:
    given: dict[str, Value] = {**SMALL_WARMFED, "warmfed.local-model-source": "uploaded"}
    robust: dict[str, Value] = {"objective": "qat", "quantization-robust.bits": 2}
    plain, quantized = (run("warmfed", tmp_path / str(len(m)), {**given, **m}, clients=2) for m in ({}, robust))

    def uploaded(outcome: Outcome) -> dict[str, np.ndarray]:
        return {n: a for r in outcome.replies for n, a in from_records(r.content).arrays.items() if n.startswith("classifier.")}

    first, second = uploaded(plain), uploaded(quantized)
    assert first.keys() == second.keys() and first and not same(first, second)


@pytest.mark.parametrize("layers", ["all", "skip_first_last"])
def test_relaxed_quantization_is_measured_on_the_layers_that_it_trains(layers: str, tmp_path: Path) -> None:
    """At its own width the model is measured on learned grids of exactly these layers; another group's setting has no say."""
    from fedwarm.core.arrays import to_tensors
    from fedwarm.objectives import objective_of
    from fedwarm.quantize.sweep import weight_grids

    given: dict[str, Value] = {"relaxed-quantization.layers": layers, "quantization-robust.skip-first-last": layers == "all"}
    outcome = run("quantization_robust", tmp_path / "run", {**FAST, "quantization-robust.variant": "rq", **given})
    config, arrays = parse(outcome.results["settings"]), to_tensors(outcome.model)
    model = build_model(config.of(Model), 10, 8, 0, {n: a for n, a in arrays.items() if not is_learned(n)})
    objective = objective_of(config)
    learned = objective.learned(config, arrays)
    assert learned is not None
    found = weight_grids(model, 4, objective.scheme(config), learned)
    assert set(found) == {name.split("/")[1].removesuffix(".weight.log_alpha") for name in arrays if "weight.log_alpha" in name}
    for name, grid in found.items():
        assert torch.allclose(grid.step, arrays[f"quantizer/{name}.weight.log_alpha"].exp())


@pytest.mark.long
def test_workers_give_the_same_model(tmp_path: Path) -> None:
    one, two = (run("quantization_robust", tmp_path / str(n), {**LEARNED, "num-server-rounds": 1}, workers=n) for n in (1, 2))
    assert same(one.model, two.model) and one.results["final"] == two.results["final"]


def test_what_cannot_be_averaged_is_refused(tmp_path: Path) -> None:
    for method, more in (("dp_rec", {}), ("fedavg", {"codec": "dp-rec"}), ("scaffold", {})):
        with pytest.raises(SettingError, match="learns quantizers that clients must share"):
            run(method, tmp_path / method, {**FAST, "objective": "rq", **more})
    with pytest.raises(SettingError, match="evaluate.bit-widths"):
        run("fedavg", tmp_path / "widths", {**FAST, "evaluate.bit-widths": "4;2"})


@pytest.mark.parametrize("variant", ["mqat", "qat", "rq"])
def test_a_run_is_exported_and_gives_the_same_answers(variant: str, tmp_path: Path) -> None:
    """The packed file, loaded again, answers as the model did at that width when it was measured."""
    from fedwarm.cli.export import export_run
    from fedwarm.data import load_shard
    from fedwarm.quantize.export import load_exported
    from fedwarm.training.evaluate import correct

    given: dict[str, Value] = {"quantization-robust.variant": variant}
    given |= {"quantization-robust.range": "learned"} if variant == "qat" else {}
    outcome = run("quantization_robust", tmp_path / "run", {**FAST, **given})
    told, _ = export_run(outcome.folder, 4, "torch", tmp_path / "model.safetensors")
    model = load_exported(tmp_path / "model.safetensors")
    config = parse(outcome.results["settings"])
    shards = [load_shard(config.of(Data), 0, client, 4) for client in range(4)]
    right = sum(correct(model, s.test_images, s.test_labels) for s in shards)
    assert right / sum(len(s.test_labels) for s in shards) == outcome.results["final"]["bit_widths"]["w4"]
    assert (tmp_path / "model.safetensors").stat().st_size == told.file_bytes


@pytest.mark.parametrize("codec", ["dense", "stochastic-rounding"])
def test_steps_are_learned_from_the_first_round_of_the_objective_on(codec: str, tmp_path: Path) -> None:
    settings: dict[str, Value] = {**LEARNED, "num-server-rounds": 3, "quantization-robust.start-round": 3, "codec": codec}
    outcome = run("quantization_robust", tmp_path, settings)
    replies = [from_records(m.content) for m in outcome.replies if m.metadata.message_type == "train"]
    if codec == "dense":
        assert [any(map(is_learned, reply.arrays)) for reply in replies] == [False] * 8 + [True] * 4
    assert any(map(is_learned, outcome.model)) and outcome.results["complete"]

"""Which settings tell runs apart: those of parts that a run does not use do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedwarm.catalogue import all_groups, parse
from fedwarm.record.reading import read_run
from fedwarm.relevance import idle, matters
from fedwarm.report.compare import concerns, grouped
from fedwarm.settings.fields import keys
from fedwarm.settings.kinds import METHODS
from tests.report_page import results, settings, write

SCHEME = ("range", "per-channel", "full-range", "skip-first-last")
ALL_ROBUST = (*SCHEME, "start-round")
ROBUST = {
    "kure": ("skip-first-last", "start-round", "kure-weight", "kure-target", "kure-warmup"),
    "apqn": (*ALL_ROBUST, "apqn-width", "noise", "noise-scale"),
    "qat": (*ALL_ROBUST, "bits", "quantize-activations"),
    "mqat": (*ALL_ROBUST, "train-bits", "granularity", "quantize-activations"),
    "rq": ("start-round",),
}
PROVIDED = {
    "foundation": (
        "pool", "prompt-mode", "prompt", "prompts-file", "phrases", "guidance", "steps", "judge", "judge-least", "judge-tries",
        "refused", "budget-seconds",
    ),
    "file": ("file",),
    "transforms": ("transforms",),
}  # fmt: skip
GENERATING = ("foundation", "image-size", "precision", "scheduler", "sample-steps", "guidance", "resize", "sample-batch-size")


def used(method: str = "fedavg", **changed: Any) -> set[str]:
    flat = settings(method=method, **changed)
    return {key for key in flat if "." in key and matters(key, flat, method)}


def of(part: str, found: set[str]) -> set[str]:
    return {key.partition(".")[2] for key in found if key.startswith(f"{part}.")}


@pytest.mark.parametrize(
    ("changed", "part", "there"),
    [
        ({}, "quantization-robust", {"clip"}),
        (
            {"evaluate__bit_widths": "8,4"},
            "quantization-robust",
            {"clip", "range", "per-channel", "full-range", "skip-first-last"},
        ),
        ({"objective": "qat"}, "quantization-robust", {"clip", *ROBUST["qat"]}),
        ({"method": "warmfed", "objective": "qat"}, "quantization-robust", set()),
        (
            {"method": "warmfed", "objective": "qat", "warmfed__protocol": "five-round"},
            "quantization-robust",
            {"clip", *ROBUST["qat"]},
        ),
        ({"method": "local_only"}, "evaluate", set()),
        ({"method": "warmfed", "warmfed__adapt": False}, "diffusion", {*GENERATING}),
        ({}, "diffusion", set()),
        ({"augment": "gen-fedsd"}, "diffusion", {*GENERATING}),
        ({"augment": "gen-fedsd", "gen_fedsd__provider": "file"}, "diffusion", set()),
        ({"objective": "rq"}, "quantization-robust", {"clip", *ROBUST["rq"]}),
        ({"method": "fedprox"}, "fedprox", {"mu"}),
        ({}, "fedprox", set()),
        ({}, "relaxed-quantization", set()),
        ({}, "dp-sgd", set()),
        ({}, "stochastic-rounding", set()),
        ({"codec": "stochastic-rounding"}, "stochastic-rounding", {"bits"}),
    ],
)
def test_a_part_counts_where_it_is_used(changed: dict[str, Any], part: str, there: set[str]) -> None:
    assert of(part, used(**changed)) == there


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        ({"objective": "rq"}, "relaxed-quantization"),
        ({"codec": "dp-rec"}, "dp-rec"),
        ({"method": "dp_rec"}, "dp-rec"),
        ({"privacy": "dp-sgd"}, "dp-sgd"),
        ({"method": "warmfed", "diffusion__trainer": "hollowed"}, "hollowed"),
    ],
)
def test_a_part_that_is_switched_on_counts_whole(changed: dict[str, Any], part: str) -> None:
    every = {key.partition(".")[2] for key, _, _ in keys(all_groups()) if key.startswith(f"{part}.")}
    steps = {"server-learning-rate", "server-momentum"}  # of the method's server; a codec has none
    alone = {"block-norm"}  # of another mechanism than the default one
    assert of(part, used(**changed)) == every - alone - (steps if changed.get("codec") == "dp-rec" else set()) != set()
    assert not of(part, used())


@pytest.mark.parametrize("method", ["fedavg", "gen_fedsd"])
def test_of_the_settings_of_synthesis_those_of_one_source_count(method: str) -> None:
    every = {key.partition(".")[2] for key, _, _ in keys(all_groups()) if key.startswith("gen-fedsd.")}
    alone = {name for names in PROVIDED.values() for name in names}
    assert alone < every
    for provider, names in PROVIDED.items():
        asked: list[dict[str, Any]] = [
            {},
            {"gen_fedsd__rule": "fixed", "gen_fedsd__prompt_mode": "single", "gen_fedsd__pool": 5, "gen_fedsd__judge": "file"},
            {"gen_fedsd__rule": "global"},
        ]
        base: dict[str, Any] = {"augment": "gen-fedsd", "gen_fedsd__provider": provider}
        found = set[str]().union(*(of("gen-fedsd", used(method, **base, **more)) for more in asked))
        assert found == (every - alone | {*names}) - ({"allow-repeat"} if provider == "transforms" else set())
    assert of("gen-fedsd", used(method, augment="gen-fedsd", gen_fedsd__provider="none")) == {"provider"}
    assert not of("gen-fedsd", used())


ONE_SHOT = {"num-server-rounds", "cohort", "fraction-train", "local-epochs", "patience", "target"}


def general(method: str, **changed: Any) -> set[str]:
    flat = settings(method=method, **changed)
    unused = {key for key in flat if "." not in key and not matters(key, flat, method)}
    assert "schedule-over" in unused, "nothing is scheduled"
    return unused - {"schedule-over"}


def test_what_a_schedule_counts_matters_where_there_is_one() -> None:
    for given in ({"schedule": "cosine"}, {"schedule-warmup": 2}):
        assert matters("schedule-over", {**settings(method="fedavg"), **given}, "fedavg")


def test_general_settings_that_a_method_does_not_use() -> None:
    assert general("warmfed") == ONE_SHOT | {"objective"}
    assert general("warmfed", warmfed__protocol="five-round") == {"fraction-train"}
    assert general("warmfed", warmfed__local_model_source="uploaded") == ONE_SHOT - {"local-epochs", "cohort"}
    assert general("warmfed", warmfed__synthetic_ratio=0.0) == ONE_SHOT | {"objective", "save-pictures", "codec"}
    assert general("fedavg") == {"save-pictures"}
    assert general("gen_fedsd") == {"save-pictures"}
    assert general("local_only") == {"save-pictures", "fraction-train", "codec"}


@pytest.mark.parametrize(("device", "told"), [("cpu", True), ("cuda", False)])
def test_a_cpu_draws_in_batches_of_its_own(device: str, told: bool) -> None:
    flat = settings(method="warmfed", device=device)
    assert matters("diffusion.sample-batch-size", flat, "warmfed") is not told


def test_what_is_not_given_has_its_default() -> None:
    for key in ("warmfed.prompt", "diffusion.rank", "data.alpha", "dp-rec.bits", "robust.trim"):
        for method in METHODS:
            assert matters(key, {}, method) is matters(key, settings(method=method), method)
    assert not matters("diffusion.rank", {"warmfed.synthetic-ratio": 0.0}, "warmfed")


def test_what_was_given_for_nothing() -> None:
    flat = settings(augment="gen-fedsd", gen_fedsd__provider="transforms")
    given = ["gen-fedsd.steps", "learning-rate", "fedprox.mu", "gen-fedsd.transforms", "data.alpha"]
    assert idle(given, flat, "fedavg") == ["data.alpha", "fedprox.mu", "gen-fedsd.steps"]
    assert idle(given, {**flat, "data.partition": "dirichlet"}, "fedprox") == ["gen-fedsd.steps"]


def test_the_robust_settings_that_are_named_exist() -> None:
    known = {key.partition(".")[2] for key, _, _ in keys(all_groups()) if key.startswith("quantization-robust.")}
    assert {name for names in ROBUST.values() for name in names} <= known
    every = [used("quantization_robust", quantization_robust__variant=name) for name in ROBUST]
    fixed = used("quantization_robust", quantization_robust__variant="apqn", quantization_robust__apqn_width="fixed")
    assert set().union(*(of("quantization-robust", found) for found in (*every, fixed))) == known


def test_the_objective_of_the_ready_strategy_is_its_variant() -> None:
    def chosen(method: str, **changed: Any) -> str:
        return parse(
            {"method": method, **{key.replace("__", ".").replace("_", "-"): value for key, value in changed.items()}}
        ).run.objective

    assert chosen("fedavg") == "plain"
    assert chosen("quantization_robust", quantization_robust__variant="kure") == "kure"
    assert chosen("quantization_robust", quantization_robust__variant="kure", objective="qat") == "qat"


def test_runs_of_one_method_with_other_objectives_or_codecs_are_apart(tmp_path: Path) -> None:
    """Bits of `qat` and of `codec = "dp-rec"` are settings of other methods' groups; unused ones still tell nothing apart."""
    changes: list[dict[str, Any]] = [
        {"objective": "qat", "quantization_robust__bits": 2},
        {"objective": "qat", "quantization_robust__bits": 8},
        {"codec": "dp-rec", "dp_rec__bits": 4},
        {"codec": "dp-rec", "dp_rec__bits": 6},
        {"dp_rec__bits": 4, "quantization_robust__train_bits": "4"},
        {"dp_rec__bits": 6, "seed": 1},
    ]
    runs = [read_run(write(tmp_path / str(i), results([0.5], **changed))) for i, changed in enumerate(changes)]
    assert [len(found) for found in grouped(runs).values()] == [1, 1, 1, 1, 2]


def test_shared_settings_concern_every_method() -> None:
    assert concerns("quantization-robust.bits", "fedavg") and concerns("fedprox.mu", "fedprox")
    assert not concerns("fedprox.mu", "fedavg") and concerns("local-epochs", "fedavg")
    assert not concerns("dp-rec.bits", "fedavg") and concerns("dp-rec.bits", "fedavg", {"codec": "dp-rec"})
    assert concerns("dp-rec.bits", "fedavg", {"codec": ("dense", "dp-rec")}) and concerns("gen-fedsd.rule", "fedavg")
    assert not concerns("dp-rec.bits", "fedavg", {"codec": "dense"})


def test_how_much_is_held_out_counts_where_something_is() -> None:
    for test, kept in (("held-out", ["data.test-split"]), ("split", ["data.test-fraction"]), ("central", ["data.test-fraction"])):
        flat = parse({"method": "fedavg", "data.test": test}).flat()
        assert idle(["data.test-fraction", "data.test-split", "data.test"], flat, "fedavg") == kept


def test_how_pictures_are_read_means_nothing_to_the_embedded_digits() -> None:
    given = {"data.bits": 12, "data.skip-broken": True, "data.background": "black", "data.missing-labels": "drop"}
    assert idle(given, settings(), "fedavg") == sorted(given)
    assert idle(given, settings(data__name="folder"), "fedavg") == []
    assert idle(given, settings(augment="gen-fedsd", gen_fedsd__provider="file"), "fedavg") == []


def test_who_is_waited_for_matters_on_real_nodes_alone() -> None:
    given = ["nodes.least", "nodes.return-timeout", "fedprox.mu"]
    assert idle(given, settings(), "fedavg") == sorted(given)
    assert idle(given, settings(), "fedavg", real=True) == ["fedprox.mu"]

"""That relevance tells the truth, by runs: what is said to matter is read, and changing what is said not to changes nothing.

A setting that a method does not use belongs into `fedwarm.relevance`, so that whoever gives it is told.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fedwarm.catalogue import all_groups, parse, presets
from fedwarm.data import shards
from fedwarm.relevance import matters
from fedwarm.settings import config
from fedwarm.settings.fields import Group, Value, keys
from fedwarm.settings.kinds import METHODS
from tests.runs import Outcome, run, same

KEYS = {key: (group, field) for key, group, field in keys(all_groups())}
QUICK: dict[str, Value] = {
    "num-server-rounds": 2, "local-epochs": 1, "server-threads": 1, "data.max-examples": 12, "model.name": "logistic",
    "dp-rec.entropy": "seeded", "dp-sgd.entropy": "seeded",
}  # fmt: skip
BARE: dict[str, Value] = {"warmfed.synthetic-ratio": 0.0, "warmfed.distill-epochs": 1, "warmfed.teacher-epochs": 1}
DRAWN: dict[str, Value] = {
    **BARE, "warmfed.synthetic-ratio": 0.1, "warmfed.min-per-class": 1, "warmfed.epochs-warm": 1, "diffusion.lora-steps": 1,
    "diffusion.lora-batch-size": 2, "diffusion.sample-steps": 1,
}  # fmt: skip
FILLED: dict[str, Value] = {"augment": "gen-fedsd", "gen-fedsd.budget-images": 2, "gen-fedsd.steps": 1}
CHANGED: dict[str, Value] = {"gen-fedsd.provider": "transforms"}
FIVE: dict[str, Value] = {"warmfed.protocol": "five-round"}
TRAINED, SENT, RULES = ("kure", "apqn", "qat", "mqat", "rq"), ("coding", "gaussian", "none"), ("median", "trimmed_mean", "krum")
TRUSTING = ("poisson", "server")
QR, RQ = "quantization-robust", "relaxed-quantization"

VARIANTS: dict[str, tuple[str, dict[str, Value]]] = {
    **{method: (method, {}) for method in METHODS if method not in ("warmfed", "gen_fedsd")},
    "fedbn": ("fedbn", {"model.name": "resnet8", "model.norm": "batch", "data.image-size": 16}),
    "fedgela": ("fedgela", {"model.name": "mlp", "data.image-size": 16}),
    "fedavg, batch": ("fedavg", {"model.name": "resnet20", "data.image-size": 16, "model.input-size": 12, "model.mean": "0.5"}),
    **{f"fedavg, {name}": ("fedavg", {"objective": name, f"{QR}.kure-warmup": 0}) for name in TRAINED},
    "fedavg, apqn fixed": ("fedavg", {"objective": "apqn", f"{QR}.apqn-width": "fixed"}),
    "fedavg, learned": ("fedavg", {"objective": "qat", f"{QR}.range": "learned", "evaluate.bit-widths": "4"}),
    "fedavg, rq measured": ("fedavg", {"objective": "rq", f"{RQ}.local-grid": False, "evaluate.bit-widths": "4"}),
    "fedavg, measured": ("fedavg", {"evaluate.bit-widths": "4", "evaluate.activations": False}),
    "fedavg, rounded": ("fedavg", {"codec": "stochastic-rounding"}),
    "fedavg, largest": ("fedavg", {"codec": "top-k"}),
    "fedavg, pruned": ("fedavg", {"prune.densities": "0.5"}),
    "fedsparse, on": ("fedsparse", {"fedsparse.gates": "on"}),
    "fedsparse, logits": ("fedsparse", {"fedsparse.up": "logits", "fedsparse.down": "dense", "fedsparse.prune-start": 2}),
    **{f"fedavg, coded {name}": ("fedavg", {"codec": "dp-rec", "dp-rec.mechanism": name}) for name in SENT},
    "fedavg, coded for a target": ("fedavg", {"codec": "dp-rec", "dp-rec.target-epsilon": 20.0}),
    "fedavg, private": ("fedavg", {"privacy": "dp-sgd"}),
    "fedavg, private for a target": ("fedavg", {"privacy": "dp-sgd", "dp-sgd.target-epsilon": 8.0}),
    "fedavg, dirichlet": ("fedavg", {"data.partition": "dirichlet", "data.alpha": 1.0}),
    "fedavg, pathological": ("fedavg", {"data.partition": "pathological"}),
    "fedavg, natural": ("fedavg", {"data.partition": "natural"}),
    **{f"fedavg, {rule}": ("fedavg", {"robust.rule": rule, "robust.byzantine": 0}) for rule in RULES},
    **{f"fedavg, {kind}": ("fedavg", {"faults.kind": kind, "faults.rate": 0.3, "min-replies": 1, "faults.delay-seconds": 0.01})
       for kind in ("delay", "huge_update", "poison")},
    "fedavg, faults at no rate": ("fedavg", {"faults.kind": "crash"}),
    "fedavg, transforms": ("fedavg", {**FILLED, **CHANGED, "gen-fedsd.rule": "fixed", "gen-fedsd.fixed": 3}),
    "scaffold, public file": (
        "scaffold", {**FILLED, "gen-fedsd.provider": "file", "gen-fedsd.file": "public", "data.public-share": 0.3},
    ),
    "scaffold, by examples": ("scaffold", {"scaffold.weight-by": "examples"}),
    "local_only, private": ("local_only", {"privacy": "dp-sgd"}),
    "local_only, rounded": ("local_only", {"codec": "stochastic-rounding", "evaluate.bit-widths": "4"}),
    **{f"dp_rec, {name}": ("dp_rec", {"dp-rec.mechanism": name}) for name in ("gaussian", "none")},
    "dp_rec, central": ("dp_rec", {"dp-rec.view": "central_limit", "dp-rec.mechanism": "none"}),
    **{f"dp_rec, {name}": ("dp_rec", {"dp-rec.view": "central_certified", "dp-rec.mechanism": name}) for name in TRUSTING},
    "dp_rec, adaptive": ("dp_rec", {"dp-rec.block-rule": "kl_adaptive", "dp-rec.prior": "last", "dp-rec.sigma": 1.0}),
    "dp_rec, transforms": ("dp_rec", {**FILLED, "gen-fedsd.provider": "transforms"}),
    **{f"quantization_robust, {name}": ("quantization_robust", {f"{QR}.variant": name}) for name in TRAINED if name != "mqat"},
    "gen_fedsd, nothing": ("gen_fedsd", {"gen-fedsd.provider": "none"}),
    "gen_fedsd, transforms": ("gen_fedsd", {"gen-fedsd.provider": "transforms", "gen-fedsd.rule": "global"}),
    "gen_fedsd": ("gen_fedsd", FILLED),
    "warmfed, no images": ("warmfed", BARE),
    "warmfed, no images, never": ("warmfed", {**BARE, "warmfed.selection": "never", "warmfed.adapt": False}),
    "warmfed, no images, best": ("warmfed", {**BARE, "warmfed.selection": "model_best", "warmfed.teacher-first": "synth"}),
    "warmfed, no images, measured": ("warmfed", {**BARE, "evaluate.bit-widths": "4"}),
    "warmfed, no images, five rounds": ("warmfed", {**BARE, **FIVE, "warmfed.regenerate-each-round": True}),
    "warmfed": ("warmfed", DRAWN),
}  # fmt: skip
LONG: dict[str, tuple[str, dict[str, Value]]] = {
    "gen_fedsd, single": ("gen_fedsd", {**FILLED, "gen-fedsd.prompt-mode": "single", "gen-fedsd.pool": 6}),
    "gen_fedsd, guided": ("gen_fedsd", {**FILLED, "gen-fedsd.guidance": 2.0, "gen-fedsd.rule": "client_mean"}),
    "warmfed, prompts": ("warmfed", {**DRAWN, "warmfed.adapt": False}),
    "warmfed, average": ("warmfed", {**DRAWN, "warmfed.finetune-targets": "aggregate_only", "warmfed.teacher-first": "synth"}),
    "warmfed, uploaded": ("warmfed", {**DRAWN, "warmfed.local-model-source": "uploaded", "objective": "mqat"}),
    "warmfed, five rounds": ("warmfed", {**DRAWN, **FIVE}),
    "warmfed, coded": ("warmfed", {**DRAWN, "codec": "dp-rec"}),
    "warmfed, private": ("warmfed", {**DRAWN, "privacy": "dp-sgd"}),
    "warmfed, hollowed": ("warmfed", {**DRAWN, "diffusion.trainer": "hollowed"}),
    "warmfed, hollowed to depths": ("warmfed", {**DRAWN, "diffusion.trainer": "hollowed", "hollowed.depths": "0,2"}),
}  # fmt: skip

OTHERS: dict[str, Value] = {
    "codec": "stochastic-rounding", "objective": "mqat", f"{QR}.train-bits": "3,5", "evaluate.bit-widths": "8",
    "prune.densities": "0.3",
    "evaluate.calibration-images": 3, "faults.clients": "1", "hollowed.depths": "1", "gen-fedsd.provider": "none",
    "fraction-train": 0.5, "local-epochs": 3, "num-server-rounds": 3, "hollowed.depth": 2,
    "gen-fedsd.prompt": "one {class}", "cohort": 2,
}  # fmt: skip
LEFT = {
    "data.standardise": "refused beside a data set that is no table",
    "faults.rate": "it and faults.kind switch faults on together",
    "dp-rec.block-size": "refused beside another block-rule than fixed_size",
    "gen-fedsd.histogram-epsilon": "refused beside another rule than global",
}


@contextmanager
def reads(found: set[str]) -> Iterator[None]:
    """Note which settings are read in the block, but for what dataclasses and the parser do with all of them."""
    names = {(group, field.name): key for key, (group, field) in KEYS.items()}
    whole = {config.__file__, dataclasses.__file__, "<string>"}

    def spy(self: Group, name: str) -> Any:
        key = names.get((type(self), name))
        if key is not None and sys._getframe(1).f_code.co_filename not in whole:
            found.add(key)
        return object.__getattribute__(self, name)

    shards._splits.cache_clear()  # what it answers from memory reads no setting
    Group.__getattribute__ = spy  # type: ignore[method-assign]
    try:
        yield
    finally:
        del Group.__getattribute__


def other(key: str, value: Value) -> Value:
    """Another value that the setting may have."""
    meta = KEYS[key][1].metadata
    if OTHERS.get(key, value) != value:
        return OTHERS[key]
    if meta["choices"]:
        return str(next(choice for choice in meta["choices"] if choice != value))
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return "other"
    more = value * 2 + 1
    if value == meta["high"]:
        return type(value)((value + meta["low"]) / 2)
    return more if meta["high"] is None or more <= meta["high"] else type(value)((value + meta["high"]) / 2)


TOLD = ("settings", "versions", "device", "commit", "engine", "trained_on")  # what was asked, and by what it was done


def numbers(outcome: Outcome) -> str:
    """All that a run came to, without the seconds that it took."""
    timed = ("seconds", "drawn_seconds")

    def bare(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: bare(v) for k, v in value.items() if k not in timed}
        return [bare(v) for v in value] if isinstance(value, list) else value

    results = {key: value for key, value in outcome.results.items() if key not in TOLD}
    return json.dumps([bare(results), bare(outcome.ledger)], sort_keys=True)


def presetting(method: str, settings: dict[str, Value]) -> list[str]:
    """The settings out of which a method's presets are worked out, before there are groups."""
    asked: list[str] = []

    def get(key: str) -> Value:
        asked.append(key)
        return settings[key]

    presets(method, get)
    return asked


def check(variant: tuple[str, dict[str, Value]], folder: Path) -> None:
    method, own = variant
    given = {**QUICK, **own, "client-folder": str(folder / "state")}
    settings = parse({**given, "method": method}).flat()
    useful = {key for key in KEYS if matters(key, {**settings, "device": "cpu"}, method)}
    read = set(presetting(method, settings))
    clients = 3 if "robust.rule" in own else 2
    with reads(read):
        first = run(method, folder / "first", given, clients=clients)
    assert useful - read == {"set"}, "said to matter, and never read (`set` is unpacked by the parser, before there are groups)"
    changed = {key: other(key, settings[key]) for key in KEYS.keys() - useful - LEFT.keys()}
    assert not {key for key in changed if changed[key] == settings[key]}
    second = run(method, folder / "second", {**given, **changed, "client-folder": str(folder / "other")}, clients=clients)
    if method != "local_only":
        assert same(first.model, second.model)
    assert numbers(first) == numbers(second)


@pytest.mark.parametrize("name", VARIANTS)
def test_settings_matter_where_they_are_said_to(name: str, tmp_path: Path) -> None:
    check(VARIANTS[name], tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("name", LONG)
def test_settings_matter_where_they_are_said_to_in_long_runs(name: str, tmp_path: Path) -> None:
    check(LONG[name], tmp_path)

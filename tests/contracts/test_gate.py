"""What leaves a client in a private run: two neighbouring clients send the same bytes but for what the account prices.

Every method, codec, mechanism and augmentation that there is, together where settings allow it, with all measures. A mechanism's
randomness is seeded, and what it lets through is made as small as can be: a clip of 1e-12 leaves of an update the noise alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fedwarm.clients.client_app import CAUSE, worked

from fedwarm.catalogue import parse
from fedwarm.clients import trainer_class
from fedwarm.core.payload import Payload
from fedwarm.core.refusals import NOISE, RefusalError, reason_of
from fedwarm.core.stages import Stage
from fedwarm.core.store import Store
from fedwarm.data import Shard, load_shard
from fedwarm.data.node import Node
from fedwarm.data.own import Holding
from fedwarm.data.settings import Data
from fedwarm.launch.preflight import check_run
from fedwarm.privacy.levels import ARRAYS, PRICED, Level
from fedwarm.relevance import Run
from fedwarm.rounds.client import BaseClient
from fedwarm.rounds.fleet import Fleet, Member
from fedwarm.rounds.gate import Gate, GateError, level_of, per_hundred
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError, Value
from fedwarm.settings.kinds import AUGMENTATIONS, CODECS, METHODS, PRIVACY
from fedwarm.strategies import strategy_class

NOTHING = 1e-12
FAST: dict[str, Value] = {
    "num-server-rounds": 1, "local-epochs": 1, "batch-size": 8, "momentum": 0.0, "data.max-examples": 12, "data.image-size": 8,
    "model.name": "logistic", "evaluate.bit-widths": "4", "evaluate.activations": False, "server-threads": 1,
    "dp-rec.view": "local", "dp-rec.entropy": "seeded", "dp-rec.clip": NOTHING, "dp-rec.sigma": 1.0, "dp-rec.bits": 2,
    "dp-rec.block-size": 512,
    "dp-sgd.entropy": "seeded", "dp-sgd.clip": NOTHING, "dp-sgd.noise-multiplier": 1e9,
    "gen-fedsd.provider": "transforms", "warmfed.adapt": False, "warmfed.synthetic-ratio": 0.0, "warmfed.min-per-class": 1,
    "warmfed.protocol": "five-round", "warmfed.teacher-epochs": 1, "warmfed.distill-epochs": 1,
    "fedmix.norm": "per_client", "fedmix.gate-warmup": 0, "ifca.clusters": 1,
}  # fmt: skip
MODELS: dict[str, dict[str, Value]] = {
    "fedbn": {"model.name": "resnet8", "model.norm": "group"},
    "fedgela": {"model.name": "mlp"},
}  # what it is about, or trains, must be there
NOISY: dict[str, Value] = {
    "augment": "gen-fedsd", "gen-fedsd.rule": "global", "gen-fedsd.histogram-epsilon": 1.0, "data.share-class-counts": False
}  # fmt: skip
CHOICES = [
    {"method": method, "codec": codec, "privacy": privacy, "augment": augment}
    for method, codec, privacy, augment in product(METHODS, CODECS, PRIVACY, AUGMENTATIONS)
]


@cache
def real() -> Shard:
    config = parse({"method": "fedavg", **FAST})
    return load_shard(config.of(Data), 0, 0, 2)


def neighbour(level: Level) -> Shard:
    """One that differs in all training images and labels, and in their number where that is not public; it tests on the same."""
    shard = real()
    keep = len(shard.train_labels) - (5 if level == Level.CLIENT else 0)
    return replace(shard, train_images=255 - shard.train_images[:keep], train_labels=(shard.train_labels[:keep] * 7 + 3) % 10)


@dataclass(frozen=True)
class Held(Holding):
    """What a client of a test holds."""

    images: Shard | None = None

    def shard(self) -> Shard:
        assert self.images is not None
        return self.images

    def counts(self) -> list[int]:
        return self.shard().counts()


@dataclass(frozen=True)
class Home(Node):
    """Where it holds that."""

    images: Shard | None = None

    def holding(self, data: Data, seed: int) -> Holding:
        return Held(data, seed, self.partition, self.partitions, images=self.images)


def client(config: Config, images: Shard, folder: Path) -> BaseClient:
    trainer: Any = trainer_class(config.run.method)(config, Home(0, 2, Store(folder, "ab", 0, 64), images=images))
    trainer.pooled = images
    assert isinstance(trainer, BaseClient)
    return trainer


def answers(trainer: BaseClient, asked: list[tuple[str, Payload]]) -> Iterator[Payload]:
    """What leaves it, message by message."""
    for action, payload in asked:
        yield trainer.gate(action).passed(trainer.answer(action, payload))


def messages(config: Config, shard: Shard) -> list[tuple[str, Payload]]:
    """What a run's server asks a client for: one message of each stage."""
    strategy = strategy_class(config.run.method)(config)
    members = tuple(Member(i, i, 12, 0, tuple(range(10)), None) for i in range(2))
    strategy.fleet = Fleet(members, shard.classes, int(shard.train_images.shape[-1]))
    strategy.record.open(config, shard.classes, [None, None], ["", ""], {})
    strategy.arrays = strategy.initial_arrays()
    if strategy.arrays and not strategy.sends_all:
        strategy.arrays = strategy.fixed.part(strategy.arrays, strategy.new_model)
    strategy._open_codec()
    found: dict[str, tuple[str, Payload]] = {"": ("describe", Payload())}
    for stage in chain(strategy.before(), strategy.plan(), strategy.after()):
        if stage.clients and stage.name not in found:
            found[stage.name] = (stage.asked, instructed(strategy, stage))
    return list(found.values())


def instructed(strategy: Any, stage: Stage) -> Payload:
    if not stage.owner:
        strategy.begin(stage)
    payload: Payload = strategy._instructed(stage, 0)
    return payload


def allowed(chosen: dict[str, Value]) -> Config | None:
    """The settings of a private run that may begin; None where it is refused, or nothing is private."""
    flat: dict[str, Value] = {**FAST, **MODELS.get(str(chosen["method"]), {}), **chosen}
    try:
        config = check_run(flat, 2)[0]
    except SettingError:
        return None
    return config if level_of(Run.of(config)) != Level.OPEN else None


def compare(config: Config, folder: Path) -> set[str]:
    """The names of all that leaves two neighbours; it differs where a name is priced, and nowhere else."""
    level, seen = level_of(Run.of(config)), set()
    one, other = client(config, real(), folder / "a"), client(config, neighbour(level), folder / "b")
    asked = messages(config, real())
    for (action, _), a, b in zip(asked, answers(one, asked), answers(other, asked), strict=True):
        told = one.gate(action).tells
        assert a.kind == b.kind and a.metrics.keys() == b.metrics.keys() and a.facts.keys() == b.facts.keys(), action
        for name in (*a.metrics, *a.facts):
            same = a.facts.get(name) == b.facts.get(name) and a.metrics.get(name) == b.metrics.get(name)
            assert same or told[name].startswith(PRICED) or (level == Level.FACTS and name == "train-loss"), (action, name)
        if a.arrays and level > Level.FACTS:
            assert told[ARRAYS].startswith(PRICED)
            same_arrays(a, b, action)
        seen |= {*a.metrics, *a.facts}
    return seen


def same_arrays(a: Payload, b: Payload, action: str) -> None:
    """Nothing but noise is in them, which both have alike."""
    assert a.arrays.keys() == b.arrays.keys()
    for name, array in a.arrays.items():
        assert (array.shape, array.dtype) == (b.arrays[name].shape, b.arrays[name].dtype), (action, name)
        apart = np.mean(~np.isclose(array.astype(np.float64), b.arrays[name].astype(np.float64), rtol=1e-4, atol=1e-8))
        assert apart < 0.01, (action, name, apart)


@cache
def private(method: str) -> list[Config]:
    """Of a method all settings with which a private run may begin."""
    return [config for chosen in CHOICES if chosen["method"] == method and (config := allowed(chosen)) is not None]


@pytest.mark.parametrize("method", METHODS)
def test_neighbours_send_the_same_but_for_what_is_priced(method: str, tmp_path: Path) -> None:
    for number, config in enumerate(private(method)):
        seen = compare(config, tmp_path / str(number))
        assert not {"counts", "train-loss", "synthetic", "seconds"} & seen, config.flat


@pytest.mark.parametrize("mechanism", ["coding", "poisson", "gaussian"])
def test_so_it_is_in_central_views(mechanism: str, tmp_path: Path) -> None:
    """Of all mechanisms of DP-REC: messages of one length, and nothing beside them."""
    central: dict[str, Value] = {"dp-rec.mechanism": mechanism, "dp-rec.view": "central_certified", "dp-rec.block-size": 0}
    config = allowed({"method": "dp_rec", **central})
    assert config is not None and not {"counts", "train-loss"} & compare(config, tmp_path)


def test_the_matrix_holds_every_private_choice() -> None:
    """None is missing because its settings here are refused: each codec, mechanism and method that refuses none is in it."""
    runs = [config.run for method in METHODS for config in private(method)]
    able = {name for name in METHODS if "privacy" not in METHODS.load(name).refuses}
    assert able <= {run.method for run in runs} and {run.augment for run in runs} == {*AUGMENTATIONS}
    assert {name for name in CODECS if CODECS.load(name).private} <= {run.codec for run in runs}
    assert {*PRIVACY} == {run.privacy for run in runs}


def test_neighbours_with_a_histogram_under_noise(tmp_path: Path) -> None:
    """The weights leave as they are, the drawn images' numbers and seconds do not."""
    config = allowed({"method": "fedavg", **NOISY})
    assert config is not None and level_of(Run.of(config)) == Level.FACTS
    seen = compare(config, tmp_path)
    assert {"counts", "num-examples"} <= seen and not {"synthetic", "seconds", "made"} & seen


@pytest.mark.parametrize("settings", [{"privacy": "dp-sgd"}, {"codec": "dp-rec"}], ids=str)
def test_a_leak_is_seen(settings: dict[str, Value], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that was trained without noise, or a count, makes the comparison fail."""
    config = allowed({"method": "fedavg", **settings})
    assert config is not None
    with monkeypatch.context() as patch, pytest.raises(AssertionError):
        patch.setattr(BaseClient, "mechanism", lambda *_: None)
        compare(config.changed({"dp-rec.clip": 1e6, "dp-rec.sigma": 1e-3}), tmp_path / "arrays")
    with monkeypatch.context() as patch, pytest.raises(AssertionError):
        patch.setattr(BaseClient, "withholds", lambda *_: frozenset())
        patch.setattr(BaseClient, "tells", lambda *_: {ARRAYS: PRICED, "train-loss": "none", "num-examples": "none", **OWN})
        patch.setattr(BaseClient, "spent", {"mean": 0})
        patch.setattr(BaseClient, "weight", property(lambda self: int(self.real.train_images.sum())))
        compare(config, tmp_path / "count")


OWN = {"mean": "none", "epsilon": "none"}


@pytest.mark.parametrize("level", [Level.FACTS, Level.EXAMPLE, Level.CLIENT])
def test_what_nobody_declared_does_not_leave(level: Level) -> None:
    with pytest.raises(GateError, match="'secret' would leave a client.*must declare it"):
        Gate.of(level).passed(Payload(metrics={"secret": 1.0, "num-test": 3}))
    with pytest.raises(GateError, match="'shown' would leave"):
        Gate.of(level).passed(Payload(facts={"shown": [1]}))
    Gate.of(Level.OPEN).passed(Payload(metrics={"secret": 1.0}))


def test_arrays_leave_where_somebody_prices_them() -> None:
    with pytest.raises(GateError, match="'arrays' would leave"):
        Gate.of(Level.EXAMPLE).passed(Payload("weights", {"w": np.zeros(1)}))


def test_right_answers_are_told_per_hundred() -> None:
    """112 held-out images are a fixed share of what the client holds."""
    assert per_hundred({"num-test": 112, "correct-global": 28, "partition": 3}) == {"num-test": 100, "correct-global": 25}
    assert per_hundred({"num-test": 0}) == {}


@pytest.mark.parametrize("private", [{"method": "dp_rec"}, {"codec": "dp-rec"}, {"privacy": "dp-sgd"}, NOISY], ids=str)
def test_activations_calibrated_on_training_images_are_refused(private: dict[str, Value]) -> None:
    asked = {**FAST, "method": "fedavg", "evaluate.activations": True, **private}
    with pytest.raises(SettingError, match="training images, which the account of this private run does not cover; set evaluate"):
        check_run(asked, 2)
    check_run({**asked, "evaluate.activations": False}, 2)


@pytest.mark.parametrize("private", [{"codec": "dp-rec"}, {"privacy": "dp-sgd"}], ids=str)
def test_a_personal_model_without_noise_is_not_told_of(private: dict[str, Value], tmp_path: Path) -> None:
    config = allowed({"method": "warmfed", **private})
    assert config is not None
    seen = compare(config, tmp_path)
    assert "correct-global" in seen and "correct-personal" not in seen


def test_a_refusal_does_not_tell_how_many_images_there_are(tmp_path: Path) -> None:
    """An example's noise follows from their number, which is private beside dp_rec; the client's own folder says it."""
    settings: dict[str, Value] = {
        "method": "dp_rec",
        "privacy": "dp-sgd",
        "dp-sgd.target-epsilon": 1.0,
        "limits.least-noise": 50.0,
    }
    config = parse({**FAST, **settings, "dp-rec.entropy": "system", "dp-sgd.entropy": "system"})
    said, kept = set(), set()
    for name, shard in (("one", real()), ("fewer", neighbour(Level.CLIENT))):
        trainer = client(config, shard, tmp_path / name)
        asked = dict(messages(config, shard))["round"]
        with pytest.raises(RefusalError) as found:
            worked(trainer, "round", asked)
        said.add(str(found.value))
        kept.add((trainer.node.store.folder / CAUSE).read_text().splitlines()[-1])
    assert len(said) == 1 and reason_of(*said) == NOISE
    assert len(kept) == 2 and all("limits.least-noise of this node is 50" in line for line in kept)

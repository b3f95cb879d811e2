"""Filling a client's gaps: counts, order, restarts, shared pools, what is refused, and what is left as it was."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fedwarm.augmentations.gen_fedsd.amounts import GenFedSD, amounts
from fedwarm.augmentations.gen_fedsd.fill import Filled, fill, found
from fedwarm.augmentations.gen_fedsd.plan import plan_of
from fedwarm.augmentations.gen_fedsd.providers import foundation
from fedwarm.augmentations.gen_fedsd.providers.foundation import Generated
from fedwarm.augmentations.gen_fedsd.wanted import check_room
from fedwarm.core.progress import Tick, listening
from fedwarm.core.seeds import generator
from fedwarm.data import Shard, load_shard
from fedwarm.data.classes import imbalance
from fedwarm.data.settings import Data
from fedwarm.diffusion.foundation import Foundation
from fedwarm.models import Model, build_model
from fedwarm.parts import Known
from fedwarm.relevance import Run
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError, Value
from fedwarm.training.evaluate import predict
from fedwarm.training.loop import Plan, fit

Configure = Callable[..., Config]
CLIENTS = 4
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def shard_of(config: Config, client: int) -> Shard:
    return load_shard(config.of(Data), config.run.seed, client, CLIENTS)


def digests(filled: Filled) -> list[str]:
    return [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in filled.images]


def test_the_foundation_rests_when_a_client_has_its_images(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests: list[Foundation] = []
    monkeypatch.setattr(Foundation, "rest", lambda self: rests.append(self))
    config = configure(budget_images=2)
    for _ in range(2):  # the second time nothing is drawn, and nothing need be loaded
        assert fill(config, shard_of(config, 1), 1, tmp_path).report.synthetic
        assert len(rests) == 1


def test_what_is_lacking_is_added(configure: Configure, tmp_path: Path) -> None:
    config = configure(budget_images=0, cap=0.5)
    shard = shard_of(config, 1)
    filled = fill(config, shard, 1, tmp_path)
    wanted = amounts(GenFedSD(cap=0.5), shard.counts(), image_bytes=3072)
    report = filled.report
    assert report.real == shard.counts() and report.synthetic == wanted and sum(wanted) == 20
    assert torch.bincount(filled.labels, minlength=10).tolist() == wanted
    assert filled.labels.tolist() == sorted(filled.labels.tolist()) and filled.labels.dtype == torch.int64
    assert filled.images.shape == (20, 3, 32, 32) and filled.images.dtype == torch.uint8
    assert (report.made, report.reused, report.repeated, report.redrawn, report.below_judge) == (20, 0, 0, 0, 0)
    assert report.bytes == 20 * 3072 and 0 < report.drawn_seconds <= report.seconds
    after = [a + b for a, b in zip(report.real, report.synthetic, strict=True)]
    assert imbalance(after) < imbalance(report.real)
    assert len(set(filled.seeds.tolist())) == 20


def test_the_largest_class_flattens_a_client(configure: Configure, tmp_path: Path) -> None:
    config = configure(budget_images=0, data__max_examples=5)
    shard = shard_of(config, 0)
    filled = fill(config, shard, 0, tmp_path)
    whole = shard.joined(filled.images, filled.labels)
    assert set(whole.counts()) == {max(shard.counts())}
    n = len(shard.train_labels)
    assert torch.equal(whole.train_images[:n], shard.train_images) and torch.equal(whole.train_labels[:n], shard.train_labels)
    assert whole.test_images is shard.test_images and whole.test_labels is shard.test_labels


def test_a_second_run_draws_nothing_and_loads_nothing(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure()
    first = fill(config, shard_of(config, 1), 1, tmp_path)

    def refuse(*_: object) -> None:
        raise AssertionError("the foundation was loaded")

    monkeypatch.setattr(foundation, "load_foundation", refuse)
    again = fill(config, shard_of(config, 1), 1, tmp_path)
    assert digests(again) == digests(first) and torch.equal(again.seeds, first.seeds)
    assert (again.report.made, again.report.reused) == (0, 12)
    assert again.report.drawn_seconds == pytest.approx(first.report.drawn_seconds)
    other_rounds = configure(learning_rate=0.3, local_epochs=5, weight_by="real")
    assert fill(other_rounds, shard_of(config, 1), 1, tmp_path).report.made == 0


@pytest.mark.long
def test_others_who_drew_before_change_nothing(configure: Configure, tmp_path: Path) -> None:
    config = configure(pool=16)
    alone = fill(config, shard_of(config, 1), 1, tmp_path / "a")
    fill(config, shard_of(config, 2), 2, tmp_path / "b")
    fill(config, shard_of(config, 0), 0, tmp_path / "b")
    after = fill(config, shard_of(config, 1), 1, tmp_path / "b")
    assert digests(after) == digests(alone) and torch.equal(after.labels, alone.labels)
    assert after.report.reused > 0 and after.report.made < alone.report.made == 12
    own = fill(configure(), shard_of(config, 1), 1, tmp_path / "a")
    assert not set(digests(own)) & set(digests(alone))


def test_a_pool_holds_no_image_twice_in_a_client(configure: Configure, tmp_path: Path) -> None:
    config = configure(pool=16, budget_images=0, cap=0.5)
    filled = fill(config, shard_of(config, 3), 3, tmp_path)
    assert len(set(digests(filled))) == len(filled.labels) and filled.report.repeated == 0
    small = configure(pool=2, budget_images=0, cap=0.5)
    with pytest.raises(SettingError, match=r"client 3 lacks \d+ images of class '\w+' and there are 2; raise gen-fedsd.pool"):
        fill(small, shard_of(config, 3), 3, tmp_path)
    repeated = fill(configure(pool=2, budget_images=0, cap=0.5, allow_repeat=True), shard_of(config, 3), 3, tmp_path)
    assert repeated.report.synthetic == filled.report.synthetic
    assert repeated.report.repeated == sum(max(0, n - 2) for n in filled.report.synthetic) > 0
    assert (repeated.report.made, repeated.report.reused) == (0, len(set(digests(repeated))))


def test_what_cannot_be_had_or_kept_is_refused_before_anything_is_drawn(configure: Configure, tmp_path: Path) -> None:
    shard = shard_of(configure(), 1)
    uneven = replace(shard, train_images=shard.train_images[:5], train_labels=torch.tensor([0, 0, 0, 1, 1]))
    few = configure(pool=2, budget_images=0)  # two of class 1's images are there, three of the others' are not
    with pytest.raises(SettingError, match="lacks 3 images"):
        fill(few, uneven, 1, tmp_path)
    spoilt = configure(rule="global", budget_images=0, client_state_mb=1)
    with pytest.raises(
        SettingError, match=r"client 1 lacks [\d,]+ images, [\d,]+ MB, more than client-state-mb = 1; raise it"
    ) as error:
        fill(spoilt, shard, 1, tmp_path, announced=10**12)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_what_is_found_is_what_was_filled(configure: Configure, tmp_path: Path) -> None:
    config = configure(pool=16)
    assert found(config, 1, CLIENTS, tmp_path) is None and not list(tmp_path.iterdir())
    filled = fill(config, shard_of(config, 1), 1, tmp_path)
    lying = found(config, 1, CLIENTS, tmp_path)
    assert lying is not None and digests(lying) == digests(filled) and torch.equal(lying.labels, filled.labels)
    assert lying.report.synthetic == filled.report.synthetic and lying.report.made == 0
    part = next(path for path in tmp_path.rglob("*.safetensors"))
    part.unlink()
    less = found(config, 1, CLIENTS, tmp_path)
    assert less is not None and 0 < len(less.labels) < 12 and set(digests(less)) < set(digests(filled))


def test_the_announced_target(configure: Configure, tmp_path: Path) -> None:
    config = configure(rule="global", budget_images=0)
    shard = shard_of(config, 1)
    assert fill(config, shard, 1, tmp_path, announced=0).report.synthetic == [0] * 10
    assert fill(config, shard, 1, tmp_path, announced=2).report.synthetic == [max(0, 2 - n) for n in shard.counts()]


def trained_on(config: Config, shard: Shard) -> list[bytes]:
    """A classifier's weights after training on a shard."""
    model = build_model(config.of(Model), 10, 32, 0)
    fit(model, shard.train_images, shard.train_labels, Plan.of(config.run), generator(0, "train"))
    return [tensor.numpy().tobytes() for tensor in model.state_dict().values()]


def test_without_gaps_training_is_the_same_bit_for_bit(configure: Configure, tmp_path: Path) -> None:
    config = configure(budget_images=0)
    shard = shard_of(config, 1)
    flat = replace(shard, train_images=shard.train_images[:20], train_labels=torch.arange(20) % 10)
    for settings, client in ((config, flat), (configure(provider="none"), shard)):
        filled = fill(settings, client, 1, tmp_path)
        assert len(filled.labels) == 0 and filled.images.shape == (0, 3, 32, 32) and filled.report.synthetic == [0] * 10
        whole = client.joined(filled.images, filled.labels)
        assert whole is client
        assert trained_on(config, whole) == trained_on(config, client)
    assert not list(tmp_path.iterdir())


def test_transforms_fill_what_is_there_and_leave_the_rest(configure: Configure, tmp_path: Path) -> None:
    config = configure(provider="transforms", budget_images=0)
    shard = shard_of(config, 1)
    report = fill(config, shard, 1, tmp_path).report
    counts = shard.counts()
    assert report.synthetic == [max(counts) - n if n else 0 for n in counts] and sum(report.synthetic) > 0
    assert (report.made, report.reused) == (0, 0) and not list(tmp_path.iterdir())
    assert found(config, 1, CLIENTS, tmp_path) is None, "they are the client's own"


def test_an_oracle_fills_with_unseen_real_images(configure: Configure, tmp_path: Path) -> None:
    config = configure(provider="file", file="public", data__public_share=0.3)
    filled = fill(config, shard_of(config, 1), 1, tmp_path)
    lying = found(config, 1, CLIENTS, tmp_path)
    assert sum(filled.report.synthetic) == 12 and len(set(digests(filled))) == 12
    assert lying is not None and digests(lying) == digests(filled) and not list(tmp_path.iterdir())
    assert digests(fill(config, shard_of(config, 1), 2, tmp_path)) != digests(filled)


def test_progress_counts_all_images_up(configure: Configure, tmp_path: Path) -> None:
    config, ticks = configure(budget_images=40), list[Tick]()
    with listening(ticks.append, "client 1"):
        fill(config, shard_of(config, 1), 1, tmp_path)
    steps = [tick.step for tick in ticks]
    assert {(tick.who, tick.stage, tick.of) for tick in ticks} == {("client 1", "synthesis", 40)}
    assert steps == sorted(steps) and steps[-1] == 40 and len(steps) > 3


def test_a_budget_of_seconds_is_kept_over_a_restart(configure: Configure, tmp_path: Path) -> None:
    """A CPU draws sixteen of a class at a time, however few are asked for: 10 seconds are three times sixteen."""
    config = configure(budget_images=0, budget_seconds=10.0)
    shard = shard_of(config, 1)
    provider = Generated(config, shard.classes, tmp_path)
    provider.shelf.set_speed(0.2)
    plan = plan_of(config, CLIENTS, tmp_path).clients[1]
    first = fill(config, shard, 1, tmp_path)
    assert 0 < plan.seconds <= 10 and plan.synthetic == first.report.synthetic and 16 < sum(plan.synthetic) <= 48
    assert digests(fill(config, shard, 1, tmp_path)) == digests(first)
    assert found(config, 1, CLIENTS, tmp_path) is not None


def test_a_judge_is_told_of_in_the_report(configure: Configure, tmp_path: Path) -> None:
    state = build_model(configure().of(Model), 10, 32, 5).state_dict()
    path = tmp_path / "judge.safetensors"
    save_file({name: 4 * tensor for name, tensor in state.items()}, path)
    config = configure(judge=str(path), judge_least=0.3, judge_tries=2)
    filled = fill(config, shard_of(config, 1), 1, tmp_path / "root")
    model = build_model(replace(config.of(Model), weights=str(path)), 10, 32, 0)
    given = predict(model, filled.images).softmax(1)[torch.arange(12), filled.labels]
    assert filled.report.below_judge == int((given < 0.3).sum()) and 0 < filled.report.redrawn <= 12
    strict = configure(judge=str(path), judge_least=0.3, judge_tries=2, refused="drop")
    left = fill(strict, shard_of(config, 1), 1, tmp_path / "root")
    assert digests(left) == [digest for digest, share in zip(digests(filled), given, strict=True) if share >= 0.3]
    assert left.report.made == 0 and left.report.below_judge == filled.report.below_judge > 0
    assert left.report.synthetic == torch.bincount(left.labels, minlength=10).tolist()


def test_what_one_machine_cannot_keep_is_refused_before_any_work(configure: Configure) -> None:
    check_room(configure(budget_images=0), CLIENTS)
    with pytest.raises(
        SettingError, match=r"4 clients have [\d,]+ images drawn, \d+ MB, more than client-state-mb = 1; raise it"
    ):
        check_room(configure(budget_images=0, rule="fixed", fixed=100, client_state_mb=1), CLIENTS)
    check_room(configure(budget_images=0, rule="fixed", fixed=100, client_state_mb=1, pool=20), CLIENTS)


def check(config: Config, classes: tuple[str, ...]) -> None:
    """As before a run."""
    for component in Run.of(config).chosen:
        if getattr(component, "check", None) is not None:
            component.check(config, Known(CLIENTS, classes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rule": "fixed"}, "gen-fedsd.rule = 'fixed' needs gen-fedsd.fixed"),
        ({"privacy": "dp-sgd"}, "augment = 'gen-fedsd' with privacy = 'dp-sgd'"),
        ({"diffusion__foundation": "nowhere"}, "diffusion.foundation = 'nowhere' is neither a folder nor a Hub name"),
        ({"prompts_file": "/nowhere/p.txt"}, "gen-fedsd.prompts-file = '/nowhere/p.txt' cannot be read"),
        ({"phrases": "cat=x"}, "gen-fedsd.phrases: 'cat' is not a class"),
        ({"judge": "/nowhere/j"}, "gen-fedsd.judge = '/nowhere/j' is no file"),
        ({"provider": "file", "file": "digits"}, "is the clients' own data set"),
        ({"provider": "transforms", "transforms": "blur"}, "gen-fedsd.transforms = 'blur' is not a list"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(configure: Configure, changes: dict[str, Value], said: str) -> None:
    with pytest.raises(SettingError, match=said) as error:
        check(configure(**changes), WORDS)
    assert "\n" not in str(error.value) and "model.weights" not in str(error.value)


def test_a_judge_is_of_the_architecture_whatever_is_trained(configure: Configure, tmp_path: Path) -> None:
    path = tmp_path / "judge.safetensors"
    save_file(build_model(configure().of(Model), 10, 32, 5).state_dict(), path)
    check(configure(judge=str(path), model__train="lora"), WORDS)


def test_a_judge_of_another_architecture_is_refused(configure: Configure, tmp_path: Path) -> None:
    path = tmp_path / "judge.safetensors"
    save_file(build_model(configure(model__name="logistic").of(Model), 10, 32, 5).state_dict(), path)
    with pytest.raises(SettingError, match="gen-fedsd.judge = .* does not fit the classifier"):
        check(configure(judge=str(path)), WORDS)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"provider": "none"},
        {"provider": "transforms"},
        {"provider": "file", "file": "public", "data__public_share": 0.3},
        {"diffusion__foundation": "owner/not-here-yet"},
    ],
)
def test_what_can_be_is_not(configure: Configure, changes: dict[str, Value]) -> None:
    check(configure(**changes), WORDS)

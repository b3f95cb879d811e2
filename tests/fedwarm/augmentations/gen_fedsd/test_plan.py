"""The plan says before what filling does after, for one client and for all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fedwarm.augmentations.gen_fedsd.amounts import gaps, global_target
from fedwarm.augmentations.gen_fedsd.drawn import POOL
from fedwarm.augmentations.gen_fedsd.fill import fill
from fedwarm.augmentations.gen_fedsd.plan import plan_of
from fedwarm.augmentations.gen_fedsd.providers.foundation import Generated
from fedwarm.data import load_shard, partition_table
from fedwarm.data.classes import imbalance
from fedwarm.data.settings import Data
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError

Configure = Callable[..., Config]
CLIENTS = 4


def test_the_plan_is_what_happens(configure: Configure, tmp_path: Path) -> None:
    config = configure()
    before = plan_of(config, CLIENTS, tmp_path, [2])
    (plan,) = before.clients
    filled = fill(config, load_shard(config.of(Data), 0, 2, CLIENTS), 2, tmp_path)
    assert plan.partition == 2 and plan.real == filled.report.real and plan.synthetic == filled.report.synthetic == plan.new
    assert plan.gaps == gaps(plan.real, max(plan.real)) and sum(plan.new) == filled.report.made == 12
    assert plan.bytes == filled.report.bytes
    after = plan_of(config, CLIENTS, tmp_path, [2])
    assert after.new == 0 and after.seconds == 0 and after.clients[0].synthetic == plan.synthetic


def test_seconds_are_batches_by_the_measured_speed(configure: Configure, tmp_path: Path) -> None:
    config = configure()
    plans = plan_of(config, CLIENTS, tmp_path)
    source = Generated(config, plans.classes, tmp_path)
    assert plans.seconds_per_image == source.shelf.speed() and plans.seconds_per_image > 0
    for plan in plans.clients:
        rows = sum(-(-n // 16) * 16 for n in plan.new)
        assert plan.seconds == pytest.approx(rows * plans.seconds_per_image)
    assert [p.name for p in tmp_path.iterdir()] == [source.shelf.folder.name]
    left = sorted(p.name for p in source.shelf.folder.iterdir())
    assert left == ["speed.json", "speed.lock"], "what was drawn to learn the speed is not kept"


def test_a_pools_image_counts_once(configure: Configure, tmp_path: Path) -> None:
    config = configure(pool=16, budget_images=0, cap=0.5)
    plans = plan_of(config, CLIENTS, tmp_path)
    for client in range(CLIENTS):
        fill(config, load_shard(config.of(Data), 0, client, CLIENTS), client, tmp_path)
    source = Generated(config, plans.classes, tmp_path)
    lying = sum(len(source.shelf.have(POOL, label)) for label in range(10))
    assert plans.new == plans.different <= lying <= plans.new + 16 * 10
    assert plans.images > plans.different and plans.repeats == pytest.approx(1 - plans.different / plans.images)
    assert f"a pool of 16 a class: {plans.different} different images" in plans.text()
    assert plan_of(config, CLIENTS, tmp_path).new == 0
    with pytest.raises(SettingError, match="and there are 2; raise gen-fedsd.pool"):
        plan_of(configure(pool=2, budget_images=0), CLIENTS, tmp_path)


def test_labels_come_nearer_to_uniform(configure: Configure, tmp_path: Path) -> None:
    table = partition_table(configure().of(Data), 0, CLIENTS)
    for rule, fixed in (("client_max", 0), ("client_mean", 0), ("global", 0), ("fixed", 3)):
        plans = plan_of(configure(rule=rule, fixed=fixed, budget_images=0), CLIENTS, tmp_path)
        assert [plan.real for plan in plans.clients] == table
        assert [plan.before for plan in plans.clients] == [imbalance(counts) for counts in table]
        for plan in plans.clients:
            assert plan.after == 0 if rule == "client_max" else plan.after < plan.before or not any(plan.gaps)


def test_the_global_target_is_of_the_exact_counts_or_announced(configure: Configure, tmp_path: Path) -> None:
    config = configure(rule="global", budget_images=0)
    table = partition_table(config.of(Data), 0, CLIENTS)
    assert [p.gaps for p in plan_of(config, CLIENTS, tmp_path).clients] == [
        gaps(counts, global_target(table)) for counts in table
    ]
    assert [p.gaps for p in plan_of(config, CLIENTS, tmp_path, announced=1).clients] == [gaps(counts, 1) for counts in table]


@pytest.mark.parametrize("provider", ["none", "transforms", "file"])
def test_where_nothing_is_drawn_nothing_takes_time(configure: Configure, tmp_path: Path, provider: str) -> None:
    share = 0.3 if provider == "file" else 0.0
    config = configure(provider=provider, file="public", data__public_share=share)
    plans = plan_of(config, CLIENTS, tmp_path)
    assert plans.new == 0 and plans.seconds == 0 and plans.seconds_per_image == 0 and not list(tmp_path.iterdir())
    assert all(sum(plan.synthetic) <= 12 for plan in plans.clients) and (plans.images > 0) == (provider != "none")


def test_the_table_says_it_all(configure: Configure, tmp_path: Path) -> None:
    plans = plan_of(configure(), CLIENTS, tmp_path)
    lines = plans.text().splitlines()
    assert lines[0].split()[:3] == ["client", "real", "+zero"] and len(lines) == 1 + CLIENTS + 1 + 2
    for plan, line in zip(plans.clients, lines[1:], strict=False):
        cells = line.replace(",", "").split()
        assert [int(cell) for cell in cells[:14]] == [plan.partition, sum(plan.real), *plan.synthetic, 12, 12]
        assert cells[-3:] == [f"{plan.before:.2f}", ">", f"{plan.after:.2f}"]
    total = lines[1 + CLIENTS].replace(",", "").split()
    assert total[0] == "all" and int(total[-4]) == plans.images == 12 * CLIENTS and int(total[-3]) == plans.new
    assert "measured on this machine" in lines[-1]
    facts = json.loads(json.dumps(plans.facts()))
    assert facts["images"] == plans.images and facts["bytes"] == plans.bytes == 48 * 3072
    assert [client["synthetic"] for client in facts["clients"]] == [plan.synthetic for plan in plans.clients]


def test_many_classes_are_told_by_their_sum(configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedwarm.augmentations.gen_fedsd import plan as module

    monkeypatch.setattr(module, "MOST_COLUMNS", 9)
    lines = plan_of(configure(provider="transforms"), CLIENTS, tmp_path).text().splitlines()
    assert lines[0].split() == ["client", "real", "synthetic", "new", "MB", "seconds", "unlike"]
    assert len(lines) == 1 + CLIENTS + 1 + 1

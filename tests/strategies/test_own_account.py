"""A client keeps its own account: it takes noise, rounds and budget from its own settings, whatever the server asks for."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from clients import trainer_class
from fedwarm.catalogue import parse
from fedwarm.codecs.dp_rec.own import ACCOUNT, Own
from fedwarm.core.arrays import Arrays, from_module
from fedwarm.core.payload import Payload
from fedwarm.core.refusals import RefusalError, reason_of
from fedwarm.core.store import Store, make_room
from fedwarm.data.node import Node
from fedwarm.data.settings import Data
from fedwarm.models import Model, build_model
from fedwarm.privacy.mechanisms.dp_sgd.account import Steps, example_epsilon
from fedwarm.record.ledger import Entry, Ledger
from fedwarm.record.reading import read_run
from fedwarm.rounds.fleet import FederationError
from fedwarm.settings.config import Config
from fedwarm.settings.fields import Value
from tests.runs import LOCAL, run

SMALL: dict[str, Value] = {
    "num-server-rounds": 2,
    "local-epochs": 1,
    "data.max-examples": 12,
    "data.image-size": 8,
    "dp-rec.bits": 4,
    "dp-rec.sigma": 5.0,
}
METHOD: dict[str, Value] = {"method": "dp_rec", **LOCAL, **SMALL}
CODEC: dict[str, Value] = {"method": "fedavg", "codec": "dp-rec", **SMALL}


def arrays(config: Config) -> Arrays:
    return from_module(build_model(config.of(Model), 10, config.of(Data).image_size, config.run.seed))


def ask(
    root: Path, settings: dict[str, Value], number: int, sigma: float = 5.0, key: str = "a1", store: type[Store] = Store
) -> Arrays:
    """What a client answers when the server asks it for a round with this noise."""
    config = parse(settings)
    client = trainer_class(config.run.method)(config, Node(0, 4, store(root, key, 0)))
    told: dict[str, Any] = {"round": number, "sigma": sigma}
    return client.answer("round", Payload("weights", arrays(config), told, {"secret": ""})).arrays


def refused(reason: str, *words: str) -> Any:
    class Check:
        def __enter__(self) -> None:
            self.raises = pytest.raises(RefusalError)
            self.info = self.raises.__enter__()

        def __exit__(self, *what: Any) -> bool:
            passed = bool(self.raises.__exit__(*what))
            text = str(self.info.value)
            assert reason_of(text) == reason and all(word in text for word in words) and "\n" not in text
            return passed

    return Check()


def same(a: Arrays, b: Arrays) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


both = pytest.mark.parametrize("settings", [METHOD, CODEC], ids=["method", "codec"])


@both
def test_less_noise_than_the_settings_have_is_refused(tmp_path: Path, settings: dict[str, Value]) -> None:
    with refused("noise", "5", "1e-09"):
        ask(tmp_path, settings, 1, 1e-9)
    multiplier = {**settings, "dp-rec.sigma": 0.0, "dp-rec.noise-multiplier": 4.0}
    ask(tmp_path, multiplier, 1, 2.0)  # z C / sqrt(4 clients)
    ask(tmp_path, multiplier, 2, 4.0)  # one client alone is here
    with refused("noise"):
        ask(tmp_path, multiplier, 1, 1.9, key="b2")
    assert Store(tmp_path, "b2", 0).booked(ACCOUNT) == []


@both
def test_no_more_rounds_than_planned_and_none_twice(tmp_path: Path, settings: dict[str, Value]) -> None:
    first = ask(tmp_path, settings, 1)
    assert same(ask(tmp_path, settings, 1), first)
    for number in (3, 50):
        with refused("rounds", "num-server-rounds is 2"):
            ask(tmp_path, settings, number)
    ask(tmp_path, settings, 2)
    assert [entry["number"] for entry in Store(tmp_path, "a1", 0).booked(ACCOUNT)] == [1, 2]


@both
def test_a_target_is_kept_by_the_clients_own_account(tmp_path: Path, settings: dict[str, Value]) -> None:
    target = {**settings, "dp-rec.sigma": 0.0, "dp-rec.target-epsilon": 3.0}
    with refused("epsilon", "target-epsilon is 3"):
        ask(tmp_path, target, 1, 1e-9)
    ask(tmp_path, target, 1, 1.7)
    with refused("epsilon", "target-epsilon is 3"):
        ask(tmp_path, target, 2, 1.7)


@both
def test_words_that_are_gone_are_refused_and_never_drawn_again(tmp_path: Path, settings: dict[str, Value]) -> None:
    ask(tmp_path, settings, 1)
    for path in (tmp_path / "a1" / "0").glob("sent*"):
        path.unlink()
    with refused("repeated", "round 1"):
        ask(tmp_path, settings, 1)
    ask(tmp_path, settings, 2)


@both
def test_making_room_takes_neither_the_account_nor_the_words(tmp_path: Path, settings: dict[str, Value]) -> None:
    first = ask(tmp_path, settings, 1)
    make_room(tmp_path, tmp_path / "b2", 1)
    assert same(ask(tmp_path, settings, 1), first) and len(Store(tmp_path, "a1", 0).booked(ACCOUNT)) == 1


@both
def test_an_earlier_round_asked_again_keeps_later_words(tmp_path: Path, settings: dict[str, Value]) -> None:
    """As of an older copy of a run's folder that is resumed."""
    first, second = ask(tmp_path, settings, 1), ask(tmp_path, settings, 2)
    assert same(ask(tmp_path, settings, 1), first) and same(ask(tmp_path, settings, 2), second)


@both
def test_a_run_from_before_accounts_is_booked_up_to_its_last_round(tmp_path: Path, settings: dict[str, Value]) -> None:
    first = ask(tmp_path, settings, 2)
    folder = tmp_path / "a1" / "0"
    (folder / f"{ACCOUNT}.jsonl").unlink()
    for path in folder.glob("*.lasting.safetensors"):
        shutil.move(path, folder / path.name.replace(".lasting", ""))
    assert same(ask(tmp_path, settings, 2), first)
    with refused("repeated"):
        ask(tmp_path, settings, 1)


@both
def test_what_was_drawn_but_not_booked_is_booked_before_it_leaves(tmp_path: Path, settings: dict[str, Value]) -> None:
    first = ask(tmp_path, settings, 1)
    (tmp_path / "a1" / "0" / f"{ACCOUNT}.jsonl").unlink()
    assert same(ask(tmp_path, settings, 1), first) and len(Store(tmp_path, "a1", 0).booked(ACCOUNT)) == 1


LIMITS: list[tuple[dict[str, Value], str]] = [
    ({"limits.least-noise": 6.0}, "noise"),
    ({"limits.most-epsilon": 0.5}, "epsilon"),
    ({"limits.most-epsilon": 9.0, "dp-rec.entropy": "seeded"}, "not-private"),
    ({"limits.least-noise": 0.1, "dp-rec.mechanism": "none"}, "not-private"),
]


@both
@pytest.mark.parametrize(("limit", "reason"), LIMITS)
def test_a_nodes_limits(tmp_path: Path, settings: dict[str, Value], limit: dict[str, Value], reason: str) -> None:
    with refused(reason, f"{next(iter(limit))} of this node"):
        ask(tmp_path, {**settings, **limit}, 1)


@both
def test_limits_on_rounds_and_on_all_runs(tmp_path: Path, settings: dict[str, Value]) -> None:
    ask(tmp_path, {**settings, "limits.most-rounds": 1}, 1)
    with refused("rounds", "limits.most-rounds"):
        ask(tmp_path, {**settings, "limits.most-rounds": 1}, 2)
    limit = {**settings, "limits.most-epsilon": 1.3}
    ask(tmp_path, limit, 1, key="b2")
    with refused("epsilon", "over all runs"):
        ask(tmp_path, limit, 1, key="c3")


def test_a_node_with_limits_takes_part_in_private_runs_alone(tmp_path: Path) -> None:
    with refused("not-private"):
        ask(tmp_path, {**CODEC, "codec": "dense", "limits.least-noise": 1.0}, 1)


def test_more_than_one_process_sends_the_same(tmp_path: Path) -> None:
    """The other one writes while this one draws: a lost reply's message that is sent again."""
    others: list[Arrays] = []

    class Late(Store):
        def keep(self, name: str, tensors: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
            others.append(ask(tmp_path, METHOD, 1))
            return super().keep(name, tensors, step)

    assert same(ask(tmp_path, METHOD, 1, store=Late), others[0]) and len(others) == 1


PRIVATE: dict[str, Value] = {"method": "fedavg", **SMALL, "data.max-examples": 48, "batch-size": 16, "privacy": "dp-sgd"}


def trained(root: Path, settings: dict[str, Value], number: int, key: str = "a1") -> float:
    """Epsilon that a client tells when the server asks it for a round of private training."""
    config = parse({**PRIVATE, **settings})
    client = trainer_class(config.run.method)(config, Node(0, 4, Store(root, key, 0)))
    return float(client.answer("round", Payload("weights", arrays(config), {"round": number})).metrics["epsilon"])


def test_a_retried_training_never_passes_the_target(tmp_path: Path) -> None:
    target: dict[str, Value] = {"dp-sgd.target-epsilon": 3.0}
    first = trained(tmp_path, target, 1)
    again = trained(tmp_path, target, 1)  # its reply was lost
    assert first < again <= 3.0
    with refused("epsilon", "dp-sgd.target-epsilon is 3"):
        trained(tmp_path, target, 2)


def test_repeated_draws_from_the_seed_cost_once(tmp_path: Path) -> None:
    target: dict[str, Value] = {"dp-sgd.target-epsilon": 3.0, "dp-sgd.entropy": "seeded"}
    assert trained(tmp_path, target, 1) == trained(tmp_path, target, 1)
    assert 2.9 < trained(tmp_path, target, 2) <= 3.0


def test_making_room_takes_no_account_of_training(tmp_path: Path) -> None:
    first = trained(tmp_path, {}, 1)
    make_room(tmp_path, tmp_path / "b2", 1)
    assert trained(tmp_path, {}, 2) > first


@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        ({"limits.least-noise": 1.5}, "noise"),
        ({"limits.most-epsilon": 0.5}, "epsilon"),
        ({"limits.most-epsilon": 50.0, "dp-sgd.entropy": "seeded"}, "not-private"),
    ],
)
def test_a_nodes_limits_on_training(tmp_path: Path, limit: dict[str, Value], reason: str) -> None:
    with refused(reason, f"{next(iter(limit))} of this node"):
        trained(tmp_path, limit, 1)
    assert not (tmp_path / "a1").exists()


def test_limits_on_trainings_and_on_all_runs(tmp_path: Path) -> None:
    spent = trained(tmp_path, {"limits.most-rounds": 1}, 1)
    with refused("rounds", "limits.most-rounds"):
        trained(tmp_path, {"limits.most-rounds": 1}, 2)
    with refused("epsilon", "over all runs"):
        trained(tmp_path, {"limits.most-epsilon": 1.1 * spent}, 1, key="b2")


def test_an_account_from_before_lines_is_gone_on_with(tmp_path: Path) -> None:
    Store(tmp_path, "a1", 0).save("account", {"steps": torch.tensor([[1 / 3, 1.0, 3.0]], dtype=torch.float64)}, 1)
    both = trained(tmp_path, {}, 2)
    assert both == pytest.approx(example_epsilon([Steps(1 / 3, 1.0, 6)], 1e-5))
    assert [entry["number"] for entry in Store(tmp_path, "a1", 0).booked("account")] == [0, 2]


def test_a_server_counts_refusals_by_reason_and_cannot_lower_a_nodes_limits(tmp_path: Path) -> None:
    """Two rounds are within the node's limit, the third one is not; the run's own settings, `set` among them, ask for more."""
    asked: dict[str, Value] = {**SMALL, "num-server-rounds": 3, "limits.most-rounds": 9, "set": "limits.most-rounds=9"}
    with pytest.raises(FederationError, match=r"refused \(rounds\): limits.most-rounds of this node is 2, and 2 are done"):
        run("dp_rec", tmp_path / "run", asked, clients=2, node={"limits.most-rounds": 2})
    told = read_run(tmp_path / "run")
    assert (told.privacy or {})["refusals"] == {"rounds": 4} and ("refusals, rounds", 4) in told.privacy_rows
    assert (told.epsilon or 0) > 0


def test_what_a_client_says_is_counted_by_known_reasons_alone() -> None:
    said = ["refused (noise): too little", "refused (<script>): x", "refused (nonsense): y", "it is not here", ""]
    ledger = Ledger(Entry(1, "round", i, 0, 0, 0, 0, 0.0, text) for i, text in enumerate(said))
    assert ledger.refusals() == {"noise": 1}


def test_where_a_method_asks_everybody_the_least_noise_is_that_of_everybody(tmp_path: Path) -> None:
    """A share of the clients has no part in it, whatever `fraction-train` says: sigma is z C / sqrt(4), not z C / sqrt(2)."""
    config = parse({"method": "fedavg", "codec": "dp-rec", "fraction-train": 0.5, "dp-rec.noise-multiplier": 2.0})
    everybody, half = (Own(config, Node(0, 4, Store(tmp_path, "a1", 0)), "adapt", "sent-adapt", share) for share in (1.0, 0.5))
    assert everybody.permit(0, 1.0, [100])
    with refused("noise", "the settings of dp-rec come to a sigma of 1.41421, the server names 1"):
        half.permit(0, 1.0, [100])

"""What an account does not cover is refused by each side by itself, whatever the other one checked; numbers stay hidden."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedwarm.augmentations.gen_fedsd.client import HISTOGRAM
from fedwarm.catalogue import parse
from fedwarm.clients import trainer_class
from fedwarm.core.payload import Payload
from fedwarm.core.store import Store
from fedwarm.data.node import Node
from fedwarm.rounds.gate import refuse_uncovered, sums_per_hundred
from fedwarm.settings.fields import SettingError, Value
from fedwarm.strategies import strategy_class

REFUSED: list[tuple[dict[str, Value], str]] = [
    ({"method": "ssfl", "codec": "dp-rec"}, "takes uploads that are alike"),
    ({"method": "ifca", "privacy": "dp-sgd"}, "tells which model suits a client best"),
    ({"method": "ifca", "codec": "dp-rec"}, "tells which model suits a client best"),
    ({"method": "fedmix", "privacy": "dp-sgd"}, "is not covered by privacy = 'dp-sgd'"),
    ({"method": "fedmix", "codec": "dp-rec"}, "hides what clients hold"),
    ({"method": "fedavg_m", "codec": "dp-rec"}, "how many steps a client takes"),
    ({"method": "fedsparse", "codec": "dp-rec"}, "takes uploads that are alike"),
    ({"method": "dp_rec", "task": "contrast"}, "measured by nearest neighbours among clients' training examples"),
    ({"method": "dp_rec", "metrics": "f1"}, "metric 'f1' is made of counts of each client's test examples"),
    ({"method": "dp_rec", "metrics": "accuracy,calibration-error"}, "data.test = 'central'"),
]


@pytest.mark.parametrize(("settings", "said"), REFUSED, ids=lambda each: str(each)[:40])
def test_both_sides_refuse_by_themselves(settings: dict[str, Value], said: str, tmp_path: Path) -> None:
    config, name = parse(settings), str(settings["method"])
    with pytest.raises(SettingError, match=said):
        trainer_class(name)(config, Node(0, 3, Store(tmp_path, "ab", 0)))
    with pytest.raises(SettingError, match=said):
        strategy_class(name)(config)


def test_where_the_server_measures_no_client_tells_counts() -> None:
    refuse_uncovered(parse({"method": "dp_rec", "metrics": "f1", "data.test": "central"}))
    refuse_uncovered(parse({"method": "dp_rec", "metrics": "loss"}))
    refuse_uncovered(parse({"method": "fedavg", "privacy": "dp-sgd", "metrics": "f1"}))  # numbers of images are public there
    with pytest.raises(SettingError, match="metric 'f1'"):
        held: dict[str, Value] = {"data.test": "central", "data.validation-fraction": 0.1}
        refuse_uncovered(parse({"method": "dp_rec", "metrics": "f1", **held}))


def test_sums_that_are_no_counts_are_rounded_too() -> None:
    """Of seven targets 3, 1, 4, .. a mean of all its digits would have a seven below the line."""
    told = sums_per_hundred({"sums-global-errors": [7.0, 2.5, 3.25, 23.0, 93.0]}, {"num-test": 7})
    assert told == {"sums-global-errors": [100.0, 35.7, 46.4, 329.0, 1330.0]}


def test_a_noisy_histogram_is_drawn_once(tmp_path: Path) -> None:
    """It is kept as messages are, which are not removed to make room, and whoever is second tells the first one's."""
    config = parse({
        "method": "fedavg", "augment": "gen-fedsd", "gen-fedsd.rule": "global", "gen-fedsd.histogram-epsilon": 1.0,
        "data.share-class-counts": False, "gen-fedsd.provider": "transforms",
    })  # fmt: skip
    store = Store(tmp_path, "ab", 0)
    client = trainer_class("fedavg")(config, Node(0, 4, store))
    part = client.part("gaps")
    assert part is not None
    first = part.answer("gaps", Payload(), client).facts["counts"]
    assert (store.folder / f"{HISTOGRAM}.0.lasting.safetensors").is_file()
    again = trainer_class("fedavg")(config, Node(0, 4, Store(tmp_path, "ab", 0)))
    other = again.part("gaps")
    assert other is not None and other.answer("gaps", Payload(), again).facts["counts"] == first

"""Depths of clients, and adapters of different depths in one round."""

from __future__ import annotations

import numpy as np
import pytest

from fedwarm.catalogue import parse
from fedwarm.core.arrays import Arrays
from fedwarm.diffusion.lora import targets_of
from fedwarm.diffusion.tuners.hollowed.settings import RULES, Hollowed, aligned, depth_of, unsettled
from fedwarm.diffusion.tuners.hollowed.tuner import HollowedTuner
from fedwarm.settings.fields import SettingError, Value, keys


def adapter(layers: str, value: float, rank: int = 2) -> Arrays:
    """Both matrices of some layers, one letter each."""
    out: Arrays = {}
    for i, layer in enumerate(layers):
        out[f"{layer}.to_q.lora_A.weight"] = np.full((rank, 3), value + i, np.float32)
        out[f"{layer}.to_q.lora_B.weight"] = np.full((4, rank), -value - i, np.float32)
    return out


def first(arrays: Arrays, layer: str) -> float:
    return float(arrays[f"{layer}.to_q.lora_A.weight"].flat[0])


SHALLOW, DEEP = adapter("abc", 1.0), adapter("a", 5.0)


def test_adapters_for_use_one_by_one() -> None:
    own = aligned([SHALLOW, DEEP], "union")
    assert [a.keys() for a in own] == [SHALLOW.keys(), DEEP.keys()]
    assert [a.keys() for a in aligned([SHALLOW, DEEP], "intersect")] == [DEEP.keys()] * 2
    filled = aligned([SHALLOW, DEEP], "zero_fill")
    assert [a.keys() for a in filled] == [SHALLOW.keys()] * 2
    assert first(filled[1], "a") == 5.0 and not any(filled[1][n].any() for n in SHALLOW.keys() - DEEP.keys())
    assert filled[1]["b.to_q.lora_B.weight"].shape == (4, 2) and filled[1]["b.to_q.lora_B.weight"].dtype == np.float32


@pytest.mark.parametrize("rule", RULES)
def test_ranks_and_halves_that_do_not_fit_are_refused(rule: str) -> None:
    with pytest.raises(ValueError, match="has shape .* they need one rank"):
        aligned([SHALLOW, adapter("a", 1.0, rank=3)], rule)
    half = {name: array for name, array in SHALLOW.items() if name != "b.to_q.lora_B.weight"}
    with pytest.raises(ValueError, match="of 'b.to_q' one is missing"):
        aligned([SHALLOW, half], rule)


def test_nothing_makes_nothing() -> None:
    assert aligned([], "union") == [] and targets_of({}) == ""


def test_the_layers_of_an_adapter_in_their_order() -> None:
    assert targets_of(adapter("cab", 0.0)) == "c.to_q,a.to_q,b.to_q"


def test_depths_are_dealt_in_turn() -> None:
    assert [depth_of(Hollowed(depth=3), c) for c in range(3)] == [3, 3, 3]
    assert [depth_of(Hollowed(depth=3, depths="0, 2,-2"), c) for c in range(5)] == [0, 2, -2, 0, 2]
    assert depth_of(Hollowed(), 0) == -1


@pytest.mark.parametrize("text", ["0,x", "0,,1", "-3", "1.5", ","])
def test_a_list_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match=r"hollowed.depths = .* is not a list of depths"):
        depth_of(Hollowed(depths=text), 0)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"privacy": "dp-sgd"}, "use diffusion.trainer = 'lora'"),
        ({"codec": "dp-rec", "hollowed.depths": "0,2"}, "set one hollowed.depth, or another codec"),
        ({"codec": "stochastic-rounding", "hollowed.memory-budget-mb": 9}, "leaves the depth to each client"),
    ],
)
def test_what_does_not_go_together(settings: dict[str, Value], why: str) -> None:
    def check(**changes: Value) -> None:
        HollowedTuner(parse({"diffusion.trainer": "hollowed", **settings, **changes})).check_settings()

    with pytest.raises(SettingError, match=why):
        check()
    check(codec="dense", privacy="none")
    check(privacy="none", **{"hollowed.depths": "2,2", "hollowed.memory-budget-mb": 9})


def test_a_budget_unsettles_automatic_depths_alone() -> None:
    given = Hollowed(depths="-1,0", memory_budget_mb=9)
    assert [unsettled(given, client) for client in (0, 1, 2)] == [True, False, True]
    assert not unsettled(Hollowed(), 0)


def test_the_keys_of_the_settings() -> None:
    told = [key for key, _, _ in keys((Hollowed,))]
    assert told == [f"hollowed.{name}" for name in (
        "depth", "depths", "cache", "cache-dtype", "tuples", "memory-budget-mb", "mixed", "keep-cache",
    )]  # fmt: skip

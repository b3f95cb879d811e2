"""Settings: what is refused and how, the round trip, and that defaults live in one place."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedwarm.catalogue import ROOMS, all_groups, flagged, groups_of, parse
from fedwarm.data.settings import Data
from fedwarm.methods.fedprox import FedProx
from fedwarm.methods.warmfed import WarmFed
from fedwarm.settings.config import General
from fedwarm.settings.fields import SettingError, Value, allowed, keys, near
from fedwarm.settings.kinds import METHODS, SETS
from fedwarm.settings.ranges import WORDS

ROOT = Path(__file__).parents[3]
SETTINGS = list(keys(all_groups()))
TABLE = {key: f for key, _, f in SETTINGS}
PARTS: dict[str, list[str]] = {}  # the keys of each group
for _key in TABLE:
    PARTS.setdefault(_key.rpartition(".")[0] or "run", []).append(_key)
in_parts = pytest.mark.parametrize("part", PARTS)
TYPES: dict[type, list[Value]] = {
    str: [1, 1.5, True],
    int: ["1", 1.0, True, False],
    float: ["1.0", True, False],
    bool: ["true", 1, 0, 1.0],
}


def refusal(flat: dict[str, Any]) -> str:
    with pytest.raises(SettingError) as caught:
        parse(flat)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    return text


def flattened(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested TOML tables as dotted keys."""
    found: dict[str, Any] = {}
    for name, value in table.items():
        found |= flattened(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("sed", "seed"), ("num_server_rounds", "num-server-rounds"), ("data.alfa", "data.alpha"), ("warmfed.lambda", "warmfed.")],
)
def test_unknown_key_names_the_near_ones(typed: str, meant: str) -> None:
    text = refusal({typed: 1})
    assert repr(typed) in text and "did you mean" in text
    assert meant in text.split("did you mean")[1]


def test_unknown_key_without_a_near_one_says_where_to_look() -> None:
    text = refusal({"zzzzzzzz": 1})
    assert "did you mean" not in text and "fedwarm settings" in text
    assert near("zzzzzzzz", list(TABLE)) == ""


@in_parts
def test_wrong_type_is_refused_by_name(part: str) -> None:
    for key in PARTS[part]:
        wanted = type(TABLE[key].default)
        for value in TYPES[wanted]:
            text = refusal({key: value})
            assert text.startswith(f"{key} = {value!r} is {type(value).__name__}")
            assert text.endswith(f"; it must be {WORDS[wanted]}")


def whole() -> list[tuple[str, int]]:
    """A whole number in the range of each setting that takes fractions, where there is one."""
    ranges = [(key, f.metadata["low"], f.metadata["high"]) for key, f in TABLE.items() if type(f.default) is float]
    found = [(key, math.ceil(low), high) for key, low, high in ranges]
    return [(key, number) for key, number, high in found if high is None or number <= high]


def test_whole_numbers_are_taken_for_fractions() -> None:
    for key, number in whole():
        value = parse({key: number}).flat()[key]
        assert value == number and type(value) is float, key


def outside(part: str) -> list[tuple[str, Value]]:
    """For each setting of a group values just outside its range, and the ones no range can hold."""
    found: list[tuple[str, Value]] = []
    for key, f in ((key, TABLE[key]) for key in PARTS[part]):
        kind, low, high = type(f.default), f.metadata["low"], f.metadata["high"]
        if low is not None:
            found.append((key, int(low) - 1 if kind is int else math.nextafter(low, -math.inf)))
        if high is not None:
            found.append((key, int(high) + 1 if kind is int else math.nextafter(high, math.inf)))
        if kind is float:
            found += [(key, math.nan), (key, math.inf), (key, -math.inf)]
        if f.metadata["choices"] and not getattr(f.metadata["choices"], "open", False):
            found.append((key, "nonsense"))
    return found


@in_parts
def test_out_of_range_is_refused_by_name(part: str) -> None:
    for key, value in outside(part):
        text = refusal({key: value})
        assert text.startswith(f"{key} = {value!r}")
        assert not [choice for choice in TABLE[key].metadata["choices"] if choice not in text], key


@in_parts
def test_the_bounds_themselves_are_allowed(part: str) -> None:
    for key in (key for key in PARTS[part] if TABLE[key].metadata["low"] is not None):
        kind: Any = type(TABLE[key].default)
        for bound in (TABLE[key].metadata["low"], TABLE[key].metadata["high"]):
            if bound is not None:
                assert parse({key: kind(bound)}).flat()[key] == bound, key


@pytest.mark.parametrize("key", ["seed", "learning-rate"])
def test_a_number_too_large_for_a_float_is_refused_by_name(key: str) -> None:
    assert refusal({key: 10**400}).startswith(f"{key} = ")


@pytest.mark.parametrize("key", ["out", "client-folder"])
def test_relative_folders_are_refused(key: str) -> None:
    text = refusal({key: "runs/x"})
    assert text.startswith(f"{key} = 'runs/x'") and "absolute" in text
    assert parse({key: "/tmp/x"}).flat()[key] == "/tmp/x"
    assert parse({key: ""}).flat()[key] == ""


def test_defaults_are_within_their_own_bounds() -> None:
    defaults = {key: f.default for key, f in TABLE.items()}
    assert parse(defaults).flat() == defaults == parse({}).flat()  # type: ignore[arg-type]


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "seed": st.integers(0, 2**53),
            "learning-rate": st.floats(1e-12, 1e6),
            "fraction-train": st.floats(1e-9, 1.0),
            "save-pictures": st.booleans(),
            "out": st.just("") | st.text(min_size=1).map(lambda s: f"/{s}"),
            "data.partition": st.sampled_from(["domain", "iid", "dirichlet", "pathological", "natural"]),
            "data.name": st.text(),
            "warmfed.prompt": st.text(),
            "fedprox.mu": st.floats(0.0, 1e6) | st.integers(0, 100),
            "method": st.sampled_from(list(METHODS)),
        },
    )
)
def test_flat_is_the_inverse_of_parse(given_settings: dict[str, Value]) -> None:
    config = parse(given_settings)
    flat = config.flat()
    assert flat == {**parse({"method": config.run.method}).flat(), **given_settings}
    assert parse(flat) == config
    assert set(flat) == set(TABLE)


def test_groups_are_typed_and_frozen() -> None:
    config = parse({"seed": 3, "data.alpha": 1, "fedprox.mu": 2.5, "warmfed.adapt": False})
    assert (config.run.seed, config.of(Data).alpha, config.of(FedProx).mu, config.of(WarmFed).adapt) == (3, 1.0, 2.5, False)
    assert config.of(General) is config.run and config.of(Data) is config.of(Data)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.run.seed = 4  # type: ignore[misc]


@in_parts
def test_every_setting_says_what_it_means_and_may_be(part: str) -> None:
    for key in PARTS[part]:
        text = TABLE[key].metadata["text"]
        assert isinstance(text, str) and len(text) > 10 and text == text.strip() and "\n" not in text, key
        assert allowed(TABLE[key]), key
        assert type(TABLE[key].default) in (str, int, float, bool), key
        assert key == key.lower() and "_" not in key and key.count(".") <= 1, key


def test_allowed_in_words() -> None:
    words = {key: allowed(TABLE[key]) for key in ("device", "momentum", "seed", "save-pictures", "data.name")}
    assert words == {
        "device": "auto | cpu | cuda",
        "momentum": "0 to 0.9999",
        "seed": "0 to 9007199254740992",
        "save-pictures": "true | false",
        "data.name": " | ".join([*SETS.names(), "any"]),
    }


def test_keys_are_unique() -> None:
    assert len(TABLE) == len(SETTINGS)
    prefixes = [group.prefix for group in all_groups()]
    assert len(set(prefixes)) == len(prefixes)


def test_pyproject_holds_exactly_the_defaults() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    config = flattened(pyproject["tool"]["flwr"]["app"]["config"])
    wanted = {key: f.default for key, _, f in keys(ROOMS)}
    assert config == wanted
    assert {key: type(value) for key, value in config.items()} == {key: type(value) for key, value in wanted.items()}


@pytest.mark.parametrize(("typed", "name"), [("warmfed", "warmfed"), ("Local-Only", "local_only"), ("FEDAVG", "fedavg")])
def test_method_names_take_hyphens_and_capitals(typed: str, name: str) -> None:
    assert METHODS.canonical(typed) == name
    assert parse({"method": typed}).run.method == name


def test_unknown_method_names_the_near_ones() -> None:
    text = refusal({"method": "fedporx"})
    assert "'fedporx'" in text and "fedprox" in text.split("did you mean")[1]
    assert all(name in text for name in METHODS)


def test_method_settings_stand_with_their_methods() -> None:
    found = {name: groups_of(METHODS, name) for name in METHODS}
    assert (found["fedprox"], found["warmfed"], found["fedavg"]) == ((FedProx,), (WarmFed,), ())
    assert {group for groups in found.values() for group in groups} <= set(all_groups())
    assert all(group.prefix == name.replace("_", "-") for name, groups in found.items() for group in groups)


def test_what_fields_say_of_paths_nodes_and_numbers() -> None:
    """What a device may set of its own, and what a resumed run may change, is a promise to those who hold the data."""
    places = {"data.name", "diffusion.foundation", "model.weights", "gen-fedsd.file", "gen-fedsd.judge", "gen-fedsd.prompts-file"}
    assert {*places, "gen-fedsd.phrases", "warmfed.pool", "warmfed.warm-model"} <= flagged("path")
    limits = {"limits.least-noise", "limits.most-epsilon", "limits.most-rounds", "limits.delta"}
    assert flagged("node") == {"device", "client-folder", "hollowed.memory-budget-mb", *limits}
    assert flagged("neutral") == {"out", "client-folder", "resume", "tracker", "client-state-mb", "save-pictures"}
    waits = {"stage-timeout", "min-replies", "nodes.least", "nodes.expected", "nodes.gather-timeout", "nodes.return-timeout"}
    assert flagged("free") == flagged("neutral") | waits | limits

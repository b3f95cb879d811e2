"""What every method keeps to, an installed package's own among them; each check can be called for any method.

That a method gives the same model on every engine, with any number of workers and in any order of arrival is in `test_engines`,
and that each of its settings matters in `test_relevance_runs`, both over all methods that there are.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedwarm.catalogue import all_groups, parse
from fedwarm.data import load_shard
from fedwarm.data.settings import Data
from fedwarm.methods import Method
from fedwarm.relevance import FACTS, Run
from fedwarm.rounds.client import BaseClient
from fedwarm.rounds.server import BaseStrategy
from fedwarm.settings.fields import SettingError, Value, keys
from fedwarm.settings.kinds import METHODS
from fedwarm.settings.registry import Kind, settings_of, summary
from tests.runs import SMALL_WARMFED, Outcome, action_of, run, same

FAST: dict[str, Value] = {
    "num-server-rounds": 2, "local-epochs": 1, "data.max-examples": 24, "data.image-size": 16, "server-threads": 1,
}  # fmt: skip
OWN: dict[str, dict[str, Value]] = {
    "gen_fedsd": {**FAST, "gen-fedsd.provider": "transforms"},
    "dp_rec": {**FAST, "dp-rec.bits": 3, "dp-rec.entropy": "seeded"},
    "warmfed": {**SMALL_WARMFED, "data.max-examples": 12, "server-threads": 1},
}
CLIENTS = 2
Check = Callable[[Kind[Any], str], None]


def settings(name: str) -> dict[str, Value]:
    return OWN.get(name, FAST)


def check_declaration(kind: Kind[Any], name: str) -> None:
    """A method says what it is, and names settings and facts that there are."""
    found, known = kind.load(name), {key for key, _, _ in keys(all_groups())}
    assert isinstance(found, Method) and found.title.isidentifier() and summary(found) and found.title[0].isupper()
    assert {*found.refuses} <= known and all(found.refuses.values())
    run = Run({}, name)
    assert {*(found.does(run) if found.does else {})} <= FACTS.keys()
    for group in settings_of(found):
        assert group.prefix and (group.__doc__ or "").strip()
        assert all(len(str(f.metadata["text"])) > 10 for _, _, f in keys((group,)))


def check_sides(kind: Kind[Any], name: str) -> None:
    """Both sides are found by its name, and by its public name."""
    import fedwarm.clients
    import fedwarm.strategies

    strategy, trainer = fedwarm.strategies.strategy_class(name), fedwarm.clients.trainer_class(name)
    assert issubclass(strategy, BaseStrategy) and issubclass(trainer, BaseClient)
    assert strategy.method == name and getattr(fedwarm.strategies, kind.load(name).title) is strategy
    assert strategy().config.run.method == name


def check_presets(kind: Kind[Any], name: str) -> None:
    """What it presets holds where nobody set anything, and gives way to what somebody did."""
    flat, defaults = parse({"method": name}).flat(), {key: f.default for key, _, f in keys(all_groups())}
    for key, value in kind.load(name).presets(flat.__getitem__, filled=True).items():
        assert flat[key] == value and flat["set"] == ""
        given = parse({"method": name, key: defaults[key]})  # type: ignore[dict-item]
        assert given.flat()[key] == defaults[key] == Run.of(given)[key]
        assert parse(given.flat()) == given
        filled = {**parse({}).flat(), "method": name, "set": given.run.set}  # as Flower fills a run config up
        assert parse(filled).flat() == given.flat()


def check_defaults(kind: Kind[Any], name: str) -> None:
    """Its own defaults hold where nobody set anything, give way to what somebody did, and leave a record as it is."""
    config, usual = parse({"method": name}), {key: f.default for key, _, f in keys(all_groups())}
    flat, found = config.flat(), kind.load(name)
    own = found.presets(flat.__getitem__).keys() - found.presets(flat.__getitem__, filled=True).keys()
    for key in own:
        assert flat[key] == found.presets(flat.__getitem__)[key] == Run({}, name)[key] != usual[key]
        given = parse({"method": name, key: usual[key]})  # type: ignore[dict-item]
        assert given.flat()[key] == usual[key] == Run.of(given)[key]
    assert parse(flat) == config
    recorded = {**parse({}).flat(), "method": name}  # as of a run from before it had them, or as Flower fills a run config up
    assert all(parse(recorded).flat()[key] == usual[key] for key in own)


def check_refusals(kind: Kind[Any], name: str) -> None:
    """What it refuses is refused before any work, in one line with its reason."""
    for key, reason in kind.load(name).refuses.items():
        (f,) = (f for known, _, f in keys(all_groups()) if known == key)
        other = next((choice for choice in f.metadata["choices"] if choice != f.default), "f1" if f.default == "" else 0.5)
        with pytest.raises(SettingError) as error:
            strategy = __import__("fedwarm.strategies").strategies.strategy_class(name)
            strategy(parse({"method": name, key: other}))
        assert reason in str(error.value) and "\n" not in str(error.value)


DECLARED: list[Check] = [check_declaration, check_sides, check_presets, check_defaults, check_refusals]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("check", DECLARED, ids=lambda check: check.__name__)
def test_what_it_says_of_itself(check: Check, name: str) -> None:
    check(METHODS, name)


@pytest.fixture(scope="module", params=METHODS)
def outcome(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    name = str(request.param)
    return run(name, tmp_path_factory.mktemp(name) / "run", settings(name), clients=CLIENTS)


def test_it_ends_with_a_whole_record(outcome: Outcome) -> None:
    results = outcome.results
    assert results["complete"] and results["partition"]["clients"] == CLIENTS
    final = results["final"]
    assert final["global"]["accuracy"] is not None or final["personal"] is not None
    assert not any(entry["failure"] for entry in outcome.ledger)
    assert json.loads((outcome.folder / "results.json").read_text())["method"] == results["method"]


def test_no_image_leaves_a_client(outcome: Outcome) -> None:
    """No array of a reply holds a client's pixels, and no fact is longer than names are."""
    flat = {key: value for key, value in outcome.results["settings"].items() if not key.startswith(("set", "out"))}
    data = parse(flat).of(Data)
    images = {bytes(image.numpy().tobytes()) for k in range(CLIENTS) for image in load_shard(data, 0, k, CLIENTS).train_images}
    size = len(next(iter(images)))
    for reply in outcome.replies:
        for name, array in reply.content["arrays"].items():
            held = np.ascontiguousarray(array.numpy())
            assert held.dtype != np.uint8 or held.ndim < 3, name
            raw = held.tobytes()
            assert not any(raw[i : i + size] in images for i in range(0, max(0, len(raw) - size) + 1, size)), name


def test_what_is_asked_is_what_it_knows(outcome: Outcome) -> None:
    """Every message is one of the three types of Flower's that the app answers, whatever its action."""
    assert {message.metadata.message_type for message in outcome.messages} <= {"query", "train", "evaluate"}
    assert all(action_of(message) for message in outcome.messages)


def test_the_same_seed_gives_the_same_model(outcome: Outcome, tmp_path: Path) -> None:
    name = outcome.results["method"]
    again = run(name, tmp_path / "again", settings(name), clients=CLIENTS)
    if (outcome.folder / "model.safetensors").exists():
        assert same(again.model, outcome.model)
    assert again.results["final"] == outcome.results["final"]

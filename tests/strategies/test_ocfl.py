"""OCFL: FedAvg until the temperature rises, then each cohort by itself; who comes late, and what a checkpoint holds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from fedwarm.core.arrays import Arrays
from fedwarm.core.payload import Payload
from fedwarm.core.stages import Stage
from fedwarm.core.told import numbered
from fedwarm.flower.wire import from_records
from fedwarm.launch.finished import personal
from fedwarm.record.reading import read_run
from fedwarm.rounds.fleet import Fleet, Member
from fedwarm.settings.fields import Value
from strategies.ocfl import Ocfl
from tests.runs import Outcome, run, same

SMALL: dict[str, Value] = {
    "num-server-rounds": 3, "local-epochs": 1, "data.max-examples": 24, "data.image-size": 8, "learning-rate": 0.05,
    "model.name": "logistic", "server-threads": 1,
}  # fmt: skip
GROUPS: dict[str, Value] = {
    **SMALL, "data.name": "planted", "planted.change": "labels", "planted.groups": 2, "data.max-examples": 60,
    "num-server-rounds": 4, "learning-rate": 0.1, "batch-size": 10, "model.name": "edges",
}  # fmt: skip


def experts(outcome: Outcome) -> list[Arrays]:
    return [*numbered(dict(outcome.model), "expert").values()]


@pytest.mark.parametrize(
    "given",
    [
        {"ocfl.earliest": 100, "momentum": 0.9, "weight-decay": 0.01},
        {"ocfl.smallest": 5, "learning-rate": 0.3},
        {"ocfl.earliest": 100, "codec": "stochastic-rounding"},
        {"ocfl.earliest": 100, "robust.rule": "median", "robust.clip-norm": 0.1},
    ],
    ids=str,
)
def test_without_cohorts_it_is_fedavg_bit_for_bit(given: dict[str, Value], tmp_path: Path) -> None:
    """Never clustered, or one cohort found (of four clients none is of five); and every byte is the same."""
    settings: dict[str, Value] = {**SMALL, **given}
    own = {key: value for key, value in settings.items() if not key.startswith("ocfl")}
    alone, plain = run("ocfl", tmp_path / "ocfl", settings), run("fedavg", tmp_path / "fedavg", own)
    assert same(experts(alone)[0], plain.model) and len(experts(alone)) == 1
    ends = [o.results["rounds"][-1] for o in (alone, plain)]
    assert ends[0]["personal"]["per_client"] == ends[1]["global"]["per_client"]
    assert ends[0]["train_loss"] == ends[1]["train_loss"]
    assert all(alone.results["totals"][way] == plain.results["totals"][way] for way in ("bytes_up", "bytes_down"))
    found = alone.results["measures"]["cohorts"]
    assert len(found["temperature"]) == (found["round"] or 3) and all(0 < t < 1 for t in found["temperature"])
    assert (found["round"] is None) is ("ocfl.earliest" in given)
    assert found["clients"] == [None if found["round"] is None else 0] * 4


@pytest.fixture(scope="module")
def divided(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run("ocfl", tmp_path_factory.mktemp("ocfl") / "run", GROUPS, clients=6)


def test_planted_groups_are_found_and_each_is_fedavg_from_the_parent(divided: Outcome) -> None:
    """Of the rounds after the trigger, what a client is sent is the mean, by examples, of its cohort's replies before."""
    found = divided.results["measures"]["cohorts"]
    assert found["clients"] == [0, 1] * 3 and found["round"] == 2 and found["noise"] is None
    assert len(found["temperature"]) == 2 and found["temperature"][0] < found["temperature"][1]
    asked, told = ([from_records(m.content) for m in each("round")] for each in (divided.asked, divided.answered))
    for number in range(1, 4):
        before, after = (slice(6 * n, 6 * n + 6) for n in (number - 1, number))
        for client, payload in enumerate(asked[after]):
            cohort = [r for c, r in enumerate(told[before]) if number <= 2 or c % 2 == client % 2]
            sizes = [r.metrics["num-examples"] for r in cohort]
            for name, array in payload.arrays.items():
                mean = np.average([r.arrays[name].astype(np.float64) for r in cohort], axis=0, weights=sizes)
                assert np.array_equal(array, mean.astype(array.dtype))
    size = sum(array.nbytes for array in experts(divided)[0].values())
    rounds = [line for line in divided.ledger if line["stage"] == "round"]
    assert all(line["payload_bytes_up"] == line["payload_bytes_down"] == size for line in rounds)


def test_a_clients_model_is_that_of_its_cohort(divided: Outcome) -> None:
    for client in range(6):
        model = personal(read_run(divided.folder, ledger=False), client).model
        assert same({n: t.numpy() for n, t in model.state_dict().items()}, experts(divided)[client % 2])
    parent = np.mean(divided.results["rounds"][1]["personal"]["per_client"])
    assert divided.results["final"]["personal"]["mean"] > parent + 0.2


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_run_goes_on_as_it_would_have(number: int, divided: Outcome, tmp_path: Path) -> None:
    """Broken off before, at and after the trigger."""
    run("ocfl", tmp_path / "parts", {**GROUPS, "num-server-rounds": number}, clients=6)
    parts = run("ocfl", tmp_path / "parts", {**GROUPS, "resume": True}, clients=6)
    assert same(divided.model, parts.model) and divided.results["measures"] == parts.results["measures"]


def test_all_take_part_until_they_are_clustered(tmp_path: Path) -> None:
    outcome = run("ocfl", tmp_path / "run", {**GROUPS, "fraction-train": 0.5}, clients=6)
    rounds = [line["round"] for line in outcome.ledger if line["stage"] == "round"]
    assert [rounds.count(number) for number in range(1, 5)] == [6, 6, 3, 3]


def test_a_client_that_lies_is_left_out_and_the_others_are_clustered(tmp_path: Path) -> None:
    """One that sends NaN in every round has the model that cohorts began with."""
    faults: dict[str, Value] = {"faults.kind": "nan", "faults.rate": 1.0, "faults.clients": "5", "min-replies": 5}
    outcome = run("ocfl", tmp_path / "run", {**GROUPS, **faults, "ocfl.smallest": 2}, clients=6)
    assert outcome.results["measures"]["cohorts"]["clients"] == [0, 1, 0, 1, 0, None]
    asked = [from_records(m.content).arrays for m in outcome.asked("evaluate")]
    assert same(asked[11], asked[23]) and not same(asked[10], asked[22])


def test_private_steps_are_measured(tmp_path: Path) -> None:
    given: dict[str, Value] = {**SMALL, "num-server-rounds": 1, "privacy": "dp-sgd"}
    outcome = run("ocfl", tmp_path / "run", given, clients=2)
    assert outcome.results["privacy"] and 0 <= outcome.results["final"]["personal"]["mean"] <= 1


# The server alone: clients have the weights (x, y) of one array

Way = tuple[float, float]
TWO: Mapping[int, Way] = {0: (1, 0), 1: (1, 0), 2: (0, 1), 3: (0, 1)}


def server(clients: int = 6, **own: Value) -> Ocfl:
    made = Ocfl(**{"ocfl__clustering": "k-means", "ocfl__clusters": 2, **own})  # type: ignore[arg-type]
    classes = tuple(str(c) for c in range(10))
    made.fleet = Fleet(tuple(Member(i, i, 24, 0, tuple(range(10)), None) for i in range(clients)), classes, 8)
    made.record.open(made.config, classes, [None] * clients)
    made.arrays = {"expert-0/w": np.zeros(2)}
    return made


def round_of(made: Ocfl, number: int, ways: Mapping[int, Sequence[float]]) -> None:
    """A round in which clients move by these."""
    stage = Stage(number, "round", "train", tuple(ways))
    made.begin(stage)
    for client, way in ways.items():
        moved: Arrays = {"w": made.instruct(stage, client).arrays["w"] + np.array(way)}
        made.check(stage, reply := Payload("weights", moved, {"num-examples": 24}))
        made.absorb(stage, client, reply)
    made.finish(stage)


def halved(**own: Value) -> Ocfl:
    """A server with the cohorts {0, 1} and {2, 3}, which both begin at (1.5, .5)."""
    made = server(**own)
    round_of(made, 1, dict.fromkeys(TWO, (1, 0)))
    round_of(made, 2, TWO)
    assert made.cohorts == {0: 0, 1: 0, 2: 1, 3: 1} and made.temperatures[0] == 0
    assert [model["w"].tolist() for model in made.models] == [[1.5, 0.5]] * 2
    return made


def test_no_reply_enters_another_cohorts_mean() -> None:
    made = halved()
    round_of(made, 3, {0: (1, 0), 1: (3, 0), 2: (0, -5)})
    assert [model["w"].tolist() for model in made.models] == [[3.5, 0.5], [1.5, -4.5]]


def test_a_cohort_without_replies_stays() -> None:
    made = halved()
    round_of(made, 3, {3: (7, 7)})
    assert [model["w"].tolist() for model in made.models] == [[1.5, 0.5], [8.5, 7.5]]


def test_who_comes_late_joins_those_who_went_the_same_way() -> None:
    """By its update from the parent, in a round in which it does not count; from the next on it does."""
    made = halved()
    round_of(made, 3, {0: (2, 0), 2: (0, 2), 5: (0.1, 4)})
    assert made.cohorts[5] == 1 and 4 not in made.cohorts
    assert [model["w"].tolist() for model in made.models] == [[3.5, 0.5], [1.5, 2.5]]
    assert made.model_of(4)["w"].tolist() == [1.5, 0.5] and made.model_of(5)["w"].tolist() == [1.5, 2.5]
    round_of(made, 4, {2: (0, 2), 5: (0, 4)})
    assert made.models[1]["w"].tolist() == [1.5, 5.5]


@pytest.mark.parametrize(("noise", "rest"), [("cohort", [11.5, 0.5]), ("global", [4.5, 2.5])])
def test_noise_is_a_cohort_or_has_the_mean_of_all(noise: str, rest: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    made = server(ocfl__clustering="hdbscan", ocfl__noise=noise)
    monkeypatch.setattr(type(made.how), "of", lambda self, distances: ([0, 0, 1, 2], 2))
    round_of(made, 1, dict.fromkeys(TWO, (1, 0)))
    round_of(made, 2, TWO)
    round_of(made, 3, {0: (2, 0), 1: (0, 0), 2: (0, 8), 3: (10, 0)})
    assert [model["w"].tolist() for model in made.models] == [[2.5, 0.5], [1.5, 8.5], rest]


def test_clients_are_clustered_when_the_temperature_first_rises_and_no_sooner_than_said() -> None:
    """Two halves of four at right angles: 8 of the 12 ordered pairs are 1 apart."""
    calm, ways = dict.fromkeys(TWO, (1.0, 0.0)), math.sqrt(8 / (4 * 12))
    made = server(ocfl__earliest=4)
    for number, moves in enumerate((calm, TWO, TWO, calm, TWO), 1):
        round_of(made, number, moves)
    assert made.divided == 5 and made.temperatures == pytest.approx([0, ways, ways, 0, ways])


def test_updates_are_held_until_the_trigger_alone() -> None:
    made = halved()
    made.begin(stage := Stage(3, "round", "train", (0,)))
    made.absorb(stage, 0, Payload("weights", {"w": np.ones(2)}, {"num-examples": 24}))
    assert made.held == {}

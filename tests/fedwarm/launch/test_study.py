"""Studies: what a file may say, how settings are chosen without a test example, what goes on, and what the table says."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedwarm.core.failures import RunError
from fedwarm.launch.request import Request, asked
from fedwarm.launch.run import QUIET
from fedwarm.launch.study import run_study
from fedwarm.launch.study_file import read_study
from fedwarm.record.ledger import Entry, Ledger
from fedwarm.report.paired import difference
from fedwarm.settings.fields import SettingError
from tests.report_page import Page, assert_stands_alone, results

HEAD = """
seeds = [1, 2, 3]
clients = 2
rounds = [1]
[settings]
num-server-rounds = 2
data.validation-fraction = 0.2
"""
ARMS = """
[tuning]
seeds = [101, 102]
grid = { learning-rate = [0.01, 0.1] }
[[arms]]
name = "plain"
method = "FedAvg"
[[arms]]
name = "pulled"
method = "fedprox"
settings = { local-epochs = 1 }
grid = { fedprox.mu = [0.1, 1.0, 2.0] }
[[arms]]
name = "on"
method = "fedavg"
start = "pulled"
grid = {}
vary = { local-epochs = [1, 2] }
[[arms]]
method = "local_only"
grid = {}
"""
Runs = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def _shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (*QUIET, "FEDWARM_ENGINE"):
        monkeypatch.setenv(name, "1")


def file(text: str, name: str = "some.toml") -> Path:
    Path(name).write_text(text)
    return Path(name)


def accuracies(flat: dict[str, Any]) -> list[float]:
    """What a run is to reach on test examples after rounds 0, 1 and 2: on those held back the order of settings is another."""
    rate, mu, epochs, seed = flat["learning-rate"], flat["fedprox.mu"], flat["local-epochs"], flat["seed"]
    bonus = 0.1 if flat["model.weights"] else 0.0
    return [0.3, 0.45 if rate == 0.1 else 0.4, 0.5 + rate + 0.01 * epochs + bonus - 0.001 * mu + 0.001 * seed]


def held(flat: dict[str, Any]) -> float:
    """Best at a rate of .01 and at a weight of 1, which test examples like less; after round 1 the higher rate is better."""
    return 0.6 - flat["learning-rate"] - abs(flat["fedprox.mu"] - 1.0) / 10 + 0.001 * flat["seed"]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Runs:
    """The settings of all runs that were asked for; each writes what a real one would."""
    made: Runs = []

    def run(request: Request) -> None:
        from fedwarm.catalogue import parse

        flat = parse(asked(request)).flat()
        made.append(flat)
        alone = flat["method"] == "local_only"
        document = results([None] * 3 if alone else accuracies(flat), method=str(flat["method"]), seed=int(flat["seed"]))
        document["settings"] = {key: value for key, value in flat.items() if key not in ("out", "client-folder")}
        document |= {
            "complete": True,
            "stages": [{"round": 1, "name": "round", "seconds": 3.0}, {"round": 1, "name": "draw", "seconds": 7.0}],
        }
        last = document["rounds"][-1]
        share = {"accuracy": None if alone else held(flat), "per_client": [None, None] if alone else [held(flat)] * 2}
        own = {"per_client": [0.2, 0.4]} if alone else None
        last["validation"] = {"images": 9, "global": share, "personal": own}
        last["personal"] = {"per_client": [0.7, 0.9]} if alone else None
        early = {"accuracy": 0.1 + flat["momentum"] / 2 + flat["learning-rate"], "per_client": [None, None]}
        document["rounds"][1]["validation"] = {"images": 9, "global": early, "personal": None}
        assert request.out is not None
        request.out.mkdir(parents=True, exist_ok=True)
        (request.out / "results.json").write_text(json.dumps(document))
        booked = [Entry(n, s, c, 0, 0, 0, 0, 2.0) for n in (1, 2) for s in ("round", "evaluate") for c in (0, 1)]
        (request.out / "ledger.jsonl").write_text(Ledger(booked).lines())

    monkeypatch.setattr("fedwarm.launch.several.run_method", run)
    return made


def table() -> list[dict[str, str]]:
    return list(csv.DictReader(Path("runs/study-some/study.csv").read_text().splitlines()))


def test_settings_are_chosen_on_what_clients_hold_back(ran: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    """At seeds of tuning alone; the order of settings on test examples is the reverse, and plays no part."""
    folder = run_study(file(HEAD + ARMS), workers=1)
    tuned = [flat for flat in ran if flat["seed"] > 100]
    assert [flat["learning-rate"] for flat in tuned[:4]] == [0.01, 0.01, 0.1, 0.1]
    assert [flat["fedprox.mu"] for flat in tuned[4:]] == [0.1, 0.1, 1.0, 1.0, 2.0, 2.0]
    rest = [flat for flat in ran if flat["seed"] < 100]
    assert [flat["seed"] for flat in rest] == [1] * 5 + [2] * 5 + [3] * 5
    assert {flat["learning-rate"] for flat in rest if flat["method"] == "fedavg" and not flat["model.weights"]} == {0.01}
    assert {flat["fedprox.mu"] for flat in rest if flat["method"] == "fedprox"} == {1.0}
    told = json.loads((folder / "study.json").read_text())
    assert told["choices"]["pulled"]["taken"] == {"fedprox.mu": 1.0} and told["tuning_seeds"] == [101, 102]
    said = capsys.readouterr()
    assert "study: 3 seeds are few" in said.err and "pulled: fedprox.mu=1.0 is best of 3" in said.err
    assert said.err.count("tried") == 1 and "; learning-rate is the smallest tried\n" in said.err
    text = Page(folder / "report.html").text
    assert text.count("(learning-rate is the smallest tried)") == 1 and "fedprox.mu=1.0: " in text
    assert "run 25 of 25: local_only, seed 3 (about " in said.err


def test_of_values_that_end_alike_the_one_that_is_there_sooner_is_taken(ran: Runs) -> None:
    arm = "[tuning]\nseeds = [101]\n[[arms]]\nmethod = 'fedavg'\ngrid = { momentum = [0.1, 0.7, 0.4] }"
    folder = run_study(file(HEAD + arm), workers=1)
    choice = json.loads((folder / "study.json").read_text())["choices"]["fedavg"]
    assert len({value for _, value in choice["tried"]}) == 1 and choice["taken"] == {"momentum": 0.7}


def test_an_arm_may_take_what_was_chosen_for_another(ran: Runs) -> None:
    arms = """
        [tuning]
        seeds = [101]
        grid = { learning-rate = [0.1, 0.01] }
        [[arms]]
        name = "plain"
        method = "fedavg"
        [[arms]]
        name = "as plain"
        method = "fedprox"
        chosen = "plain"
    """
    folder = run_study(file(HEAD + arms), workers=1)
    assert [flat["learning-rate"] for flat in ran if flat["seed"] == 101] == [0.1, 0.01]
    assert {flat["learning-rate"] for flat in ran if flat["method"] == "fedprox"} == {0.01}
    assert {path.name for path in folder.glob("as-plain*")} == {f"as-plain-learning-rate-0.01-seed-{seed}" for seed in (1, 2, 3)}
    lines = Page(folder / "report.html").text
    assert "plain: learning-rate=0.01: 60.1 % (learning-rate is the smallest tried); learning-rate=0.1: 51.1 %" in lines


def test_the_end_may_be_the_mean_of_the_last_evaluations(ran: Runs) -> None:
    """On test examples and on held-back ones, by which settings are chosen: never of round 0, with all that the run cost."""
    arm = "[tuning]\nseeds = [101]\n[[arms]]\nmethod = 'fedavg'\ngrid = { learning-rate = [0.02, 0.01] }"
    folder = run_study(file("last = 5\n" + HEAD + arm), workers=1)
    told = json.loads((folder / "study.json").read_text())
    at_round, at_end = (rounds := told["runs"]["fedavg"]["1"]["rounds"])[1:]
    assert len(rounds) == 3 and told["last"] == 5
    row = next(row for row in told["rows"] if row["number"] is None)
    assert row["found"]["global"][0] == pytest.approx((at_round["found"]["global"] + at_end["found"]["global"]) / 2)
    assert (row["up"], row["work"]) == (at_end["up"], at_end["work"])
    ends = {chosen["learning-rate"]: value for chosen, value in told["choices"]["fedavg"]["tried"]}
    held = 0.6 - 0.02 - 0.09 + 0.101
    assert ends[0.02] == pytest.approx((0.1 + 0.45 + 0.02 + held) / 2)
    assert "the mean of its last 5 evaluations" in Page(folder / "report.html").text


def test_each_round_may_have_a_choice_of_its_own(ran: Runs) -> None:
    """Its row is of the run of that choice, the last of the run of the last's; the same runs, and no other, are made for both."""
    arms = """
        [tuning]
        seeds = [101]
        each-round = true
        grid = { learning-rate = [0.1, 0.01] }
        [[arms]]
        name = "plain"
        method = "fedavg"
        [[arms]]
        name = "set"
        method = "fedavg"
        grid = {}
    """
    folder = run_study(file(HEAD + arms), workers=1)
    told = json.loads((folder / "study.json").read_text())
    assert told["choices"]["plain"]["taken"] == {"learning-rate": 0.01}
    assert told["choices"]["plain"]["each"] == {"1": {"learning-rate": 0.1}}
    found = {(row["arm"], row["round"], row["seed"]): float(row["global"]) for row in table()}
    seeds = ("1", "2", "3")
    assert [found[("plain", "1", seed)] for seed in seeds] == [0.45] * 3 and found[("set", "1", "1")] == 0.4
    assert [found[("plain", "last", seed)] for seed in seeds] == pytest.approx([0.5299 + 0.001 * n for n in (1, 2, 3)])
    assert len(ran) == 2 + 3 * 3 and [at["number"] for at in told["runs"]["plain"]["1"]["rounds"]] == [0, 1, 2]
    assert "round 1: learning-rate=0.1 (learning-rate is the largest tried)" in Page(folder / "report.html").text


def test_one_client_may_be_watched_beside_all(ran: Runs) -> None:
    """Of the global model on that client's examples, and of the client's own where there is no global model."""
    folder = run_study(file('also = ["client:1"]\n' + HEAD + ARMS), workers=1)
    rows = {(row["arm"], row["round"], row["seed"]): row for row in table()}
    plain, other = (
        [float(rows[(name, "last", str(s))]["client:1"]) for s in (1, 2, 3)] for name in ("plain", "on, local-epochs 2")
    )
    assert plain == pytest.approx([float(rows[("plain", "last", str(s))]["global"]) + 0.1 for s in (1, 2, 3)])
    row = rows[("on, local-epochs 2", "last", "1")]
    assert float(row["client:1 difference"]) == pytest.approx(difference(other, plain).mean)
    assert float(rows[("local_only", "last", "1")]["client:1"]) == 0.9
    cells = {cells[0]: cells for cells in Page(folder / "report.html").tables["results"]}
    assert "accuracy at client 1" in cells["arm"] and "difference of accuracy at client 1" in cells["arm"]
    assert not cells["local_only"][6].endswith("(own)") and cells["local_only"][5].endswith("(own)")


def test_differences_are_paired_and_costs_hold_what_came_before(ran: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_study(file(HEAD + ARMS), workers=1)
    rows = {(row["arm"], row["round"], row["seed"]): row for row in table()}
    base, others = (
        [float(rows[(name, "last", str(s))]["global"]) for s in (1, 2, 3)] for name in ("plain", "on, local-epochs 2")
    )
    found, row = difference(others, base), rows[("on, local-epochs 2", "last", "1")]
    assert float(row["global difference"]) == pytest.approx(found.mean)
    assert (float(rows[("plain", "1", "2")]["global"]), float(rows[("plain", "last", "2")]["bytes up a client"])) == (0.4, 3000.0)
    assert (float(row["bytes up a client"]), float(row["seconds a client"])) == (6000.0, 8.0)
    assert float(rows[("plain", "last", "1")]["seconds a client"]) == 4.0
    assert rows[("local_only", "last", "1")]["global"] == "" and float(rows[("local_only", "last", "1")]["own"]) == 0.8
    page = Page(folder / "report.html")
    assert_stands_alone(page)
    cells = {cells[0]: cells for cells in page.tables["results"][1:]}
    assert cells["plain"][4] == "baseline" and cells["local_only"][4].endswith("(own)") and cells["plain"][7] == "7.00 s"
    assert len(page.all("svg")) == 2 and "Fewer than five seeds" in page.text
    assert next(place["href"] for place in page.all("a")) == "plain-learning-rate-0.01-seed-1/report.html"


def test_what_begins_with_another_arm_has_its_weights_of_the_same_seed(ran: Runs) -> None:
    folder = run_study(file(HEAD + ARMS), workers=1)
    found = {flat["seed"]: flat["model.weights"] for flat in ran if flat["model.weights"]}
    assert found == {s: str(folder / f"pulled-mu-1.0-seed-{s}" / "model.safetensors") for s in (1, 2, 3)}


def test_it_may_take_something_else_of_that_run_than_its_model(ran: Runs) -> None:
    arms = "[[arms]]\nname='a'\nmethod='fedavg'\n[[arms]]\nname='b'\nmethod='fedavg'\nstart='a'\n"
    folder = run_study(file(HEAD + arms + "settings={client-folder='{start}/clients'}"), workers=1)
    found = [(flat["client-folder"], flat["model.weights"]) for flat in ran if "clients" in flat["client-folder"]]
    assert found == [(str(folder / f"a-seed-{seed}" / "clients"), "") for seed in (1, 2, 3)]


def test_the_same_command_reads_what_is_there(ran: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    path = file(HEAD + ARMS)
    run_study(path, workers=1, seeds=1)
    ran.clear()
    run_study(path, workers=1)
    assert {flat["seed"] for flat in ran} == {2, 3}
    ran.clear()
    first = table()
    run_study(path, workers=1, table=True)
    assert not ran and table() == first
    with pytest.raises(SettingError, match="the study wants 0.3; give another --out"):
        run_study(path, workers=1, overrides=["data.validation-fraction=0.3"])


def test_what_would_change_nothing_is_refused(ran: Runs) -> None:
    path = file("[settings]\ndata.validation-fraction=0.1\n[[arms]]\nmethod='fedavg'\ngrid={learning-rate=[0.05]}")
    with pytest.raises(SettingError, match=r"-c learning-rate=\.\. has no effect, as every arm of some\.toml sets"):
        run_study(path, workers=1, overrides=["learning-rate=3"])


def test_a_table_is_of_runs_with_the_file_s_settings(ran: Runs) -> None:
    arms = "[[arms]]\nname='a'\nmethod='fedavg'\n[[arms]]\nname='b'\nmethod='fedprox'\n"
    run_study(file(HEAD + arms), workers=1)
    with pytest.raises(SettingError, match="holds a run with .*, and the study wants"):
        run_study(file(HEAD + arms.replace("'fedprox'", "'scaffold'\nsettings={learning-rate=0.5}")), workers=1, table=True)


def test_what_begins_at_another_model_than_before_starts_over(ran: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the run that it starts from was made longer; its own checkpoint began at the model of then."""
    path = file(HEAD + "[[arms]]\nname='a'\nmethod='fedavg'\n[[arms]]\nname='b'\nmethod='fedavg'\nstart='a'\n")
    from fedwarm.launch import several

    good: Callable[[Request], None] = several.run_method  # type: ignore[assignment]

    def run(request: Request) -> None:
        good(request)
        assert request.out is not None
        (request.out / "model.safetensors").write_bytes(b"first")

    monkeypatch.setattr("fedwarm.launch.several.run_method", run)
    folder = run_study(path, workers=1)
    (folder / "b-seed-2" / "kept").touch()
    ran.clear()
    run_study(path, workers=1)
    assert not ran
    (folder / "a-seed-2" / "model.safetensors").write_bytes(b"longer")
    run_study(path, workers=1, table=True)
    assert {row["seed"] for row in table() if row["arm"] == "b"} == {"1", "3"} and not ran
    run_study(path, workers=1)
    assert [(flat["seed"], bool(flat["model.weights"])) for flat in ran] == [(2, True)]
    assert not (folder / "b-seed-2" / "kept").exists() and len(table()) > 2


def test_a_run_that_fails_is_noted_and_so_is_what_begins_with_it(ran: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedwarm.launch import several

    good: Callable[[Request], None] = several.run_method  # type: ignore[assignment]

    def run(request: Request) -> None:
        if request.method == "fedprox" and request.seed == 2:
            raise RunError("it broke")
        good(request)

    monkeypatch.setattr("fedwarm.launch.several.run_method", run)
    with pytest.raises(RunError, match="^3 runs failed; the same command tries them again$"):
        run_study(file(HEAD + ARMS), workers=1)
    told = json.loads(Path("runs/study-some/study.json").read_text())
    assert told["failures"]["on-local-epochs-1-seed-2"] == "the run that it starts from, pulled, is missing"
    assert "Not run: 3 of 15 runs." in Page(Path("runs/study-some/report.html")).text
    row = next(row for row in told["rows"] if row["arm"] == "pulled" and row["number"] is None)
    assert row["seeds"] == [1, 3] and row["gaps"]["global"]["pairs"] == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seeds = [1]", ["has no arms", "[[arms]]"]),
        ("seed = 1\n[[arms]]\nmethod = 'fedavg'", ["unknown key 'seed'", "did you mean seeds"]),
        ("[[arms]]\nname = 'x'", ["'x' names no method"]),
        ("[[arms]]\nmethod = 'fedavgg'", ["'fedavgg' is not a known method"]),
        ("[[arms]]\nmethod = 'fedavg'\n[[arms]]\nmethod = 'fedavg'", ["'fedavg' and 'fedavg' would share a folder"]),
        ("baseline = 'fedprox'\n[[arms]]\nmethod = 'fedavg'", ["the baseline 'fedprox' is no arm"]),
        ("watch = 'best'\n[[arms]]\nmethod = 'fedavg'", ["watch = 'best' is unknown", "global, own"]),
        ("clients = 2\nwatch = 'client:2'\n[[arms]]\nmethod = 'fedavg'", ["'client:2' is unknown", "client:0 to client:1"]),
        ("last = 0\n[[arms]]\nmethod = 'fedavg'", ["last = 0 is out of range"]),
        ("also = ['global']\n[[arms]]\nmethod = 'fedavg'", ["also holds 'global', which is watched"]),
        ("[[arms]]\nmethod = 'fedavg'\ngrid = { learning-rate = [0.1] }", ["hold back", "data.validation-fraction"]),
        (
            "seeds = [101]\n[settings]\ndata.validation-fraction=0.1\n[[arms]]\nmethod='fedavg'\ngrid={momentum=[0.1]}",
            ["seed 101"],
        ),
        ("[tuning]\neach-round = true\n[[arms]]\nmethod = 'fedavg'", ["no rounds to choose for", "add rounds"]),
        ("[[arms]]\nmethod = 'fedavg'\nchosen = 'y'", ["takes what is chosen for 'y'", "no arm with a grid"]),
        ("[[arms]]\nmethod = 'fedavg'\nchosen = 'y'\ngrid = {momentum=[0.1]}", ["has chosen and grid", "leave one"]),
        ("[[arms]]\nmethod = 'fedavg'\nstart = 'y'", ["starts from 'y', which is no arm before it"]),
        ("rounds=[9]\n[settings]\nnum-server-rounds=2\n[[arms]]\nmethod='fedavg'", ["rounds holds 9", "more than 2 rounds"]),
        (
            "[settings]\ndata.validation-fraction=0.1\n[[arms]]\nname='a'\nmethod='fedavg'\ngrid={learning-rate=[0.05]}\n"
            "[[arms]]\nname='a'\nmethod='fedavg'\nsettings={local-epochs=4}\nvary={learning-rate=[0.05]}",
            ["runs of 'a' and 'a, learning-rate 0.05' would share a folder"],
        ),
        ("[[arms]]\nmethod = 'fedavg'\nsettings = { local-epoch = 2 }", ["fedavg: unknown setting 'local-epoch'"]),
        ("[settings]\nseed = 3\n[[arms]]\nmethod = 'fedavg'", ["seed cannot stand in a study's file"]),
        (
            "[[arms]]\nmethod='fedavg'\n[[arms]]\nname='b'\nmethod='fedavg'\nstart='fedavg'\nsettings={model.weights='x'}",
            ["leave one"],
        ),
        ("[[arms]]\nmethod='warmfed'\nsettings={warmfed.pool='{start}/x'}", ["has {start} in warmfed.pool", "add start"]),
    ],
)
def test_a_file_that_cannot_be_is_refused_in_words(text: str, words: list[str]) -> None:
    with pytest.raises(SettingError) as caught:
        read_study(file(text))
    assert all(word in str(caught.value) for word in ("some.toml", *words)), caught.value


def test_a_study_runs() -> None:
    """Two real arms, one that begins with the other's model; every number of the table is that of the run's own record."""
    text = """
        seeds = [1]
        clients = 2
        [settings]
        num-server-rounds = 1
        local-epochs = 1
        data.max-examples = 12
        data.image-size = 8
        model.name = "logistic"
        [[arms]]
        method = "fedavg"
        [[arms]]
        name = "more"
        method = "fedavg"
        start = "fedavg"
    """
    folder = run_study(file(text), Path("out"), workers=1)
    told = json.loads((folder / "study.json").read_text())
    first, more = (json.loads((folder / f"{name}-seed-1" / "results.json").read_text()) for name in ("fedavg", "more"))
    ends = {row["arm"]: row for row in told["rows"]}
    assert ends["more"]["found"]["global"] == [more["final"]["global"]["accuracy"]]
    assert ends["more"]["up"] == (first["totals"]["bytes_up"] + more["totals"]["bytes_up"]) / 2
    assert more["settings"]["model.weights"] == str(folder / "fedavg-seed-1" / "model.safetensors")
    assert ends["more"]["work"] > ends["fedavg"]["work"] > 0

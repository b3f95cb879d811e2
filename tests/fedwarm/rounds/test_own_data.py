"""Real nodes that bring their own data: the run is the one on all of them together, dealt by site, to the last bit.

Three sites hold different classes in different forms. The other run deals one data set with all rows by its column of sites.
"""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from fedwarm.cli.runs import show_run
from fedwarm.record.checkpoint import load
from fedwarm.report.page import make_report
from fedwarm.rounds.fleet import FederationError
from fedwarm.settings.fields import SettingError, Value
from tests.machines import Machines, world
from tests.runs import SMALL_WARMFED, Outcome, run, same
from tests.sets import Row, write_rows, write_site

WORDS = ("one", "three", "two")  # sorted
SITES = {"a": ("classes", ("two", "one")), "b": ("parquet", ("two", "three")), "c": ("csv", ("three", "one"))}
SMALL: dict[str, Value] = {
    "num-server-rounds": 2, "local-epochs": 1, "data.image-size": 8, "data.test": "split", "model.name": "logistic",
    "server-threads": 1, "nodes.gather-timeout": 30.0, "seed": 3,
}  # fmt: skip
FILLED: dict[str, Value] = {"augment": "gen-fedsd", "gen-fedsd.rule": "global", "gen-fedsd.cap": 0.5}


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))


def rows_of(site: str, split: str) -> list[Row]:
    """The rows of a site, as its folder lists them."""
    start = 100 * "abc".index(site) + (0 if split == "train" else 50)
    return sorted((word, start + i) for word in SITES[site][1] for i in range(6 if split == "train" else 2))


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a folder for each site, and `all` with everything."""
    folder = tmp_path_factory.mktemp("sets")
    for split in ("train", "test"):
        everything = [(row, site) for site in SITES for row in rows_of(site, split)]
        write_rows(folder / "all" / f"{split}.parquet", [row for row, _ in everything], WORDS, site=[s for _, s in everything])
        for site, (form, _) in SITES.items():
            write_site(folder / site, form, rows_of(site, split), WORDS, split)
    write_rows(folder / "public" / "train.parquet", [(word, 900 + i) for word in WORDS for i in range(8)], WORDS)
    write_site(folder / "d", "classes", [(word, i) for word in ("four", "one") for i in range(6)], ("four", "one"))
    return folder


def dealt(method: str, sets: Path, folder: Path, settings: dict[str, Value]) -> Outcome:
    together: dict[str, Value] = {
        "data.name": str(sets / "all"), "data.partition": "natural", "data.partition-by": "site", **SMALL, **settings,
    }  # fmt: skip
    return run(method, folder, together, clients=len(SITES))


def at_home(machines: Machines, sets: Path, sites: str = "abc") -> None:
    machines.node_config = {i: {"site": f"site-{s}", "data-folder": str(sets / s)} for i, s in enumerate(sites)}


def own(method: str, sets: Path, folder: Path, settings: dict[str, Value]) -> Outcome:
    with world(len(SITES)) as machines:
        at_home(machines, sets)
        return machines.federate(method, folder, {"data.name": "own", **SMALL, **settings})


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("fedavg", {}),
        ("fedavg", {**FILLED, "gen-fedsd.provider": "file", "gen-fedsd.file": "PUBLIC"}),
        pytest.param("fedavg", {**FILLED, "gen-fedsd.steps": 1}, marks=pytest.mark.long),
        pytest.param("warmfed", {**SMALL_WARMFED, "data.max-examples": 0}, marks=pytest.mark.long),
        ("dp_rec", {"dp-rec.entropy": "seeded", "data.classes": ",".join(WORDS)}),
        ("fedavg", {"privacy": "dp-sgd", "dp-sgd.entropy": "seeded", "data.classes": "three, one, two"}),
        ("local_only", {}),
    ],
    ids=["fedavg", "gaps filled", "gaps drawn", "warmfed", "dp_rec", "dp-sgd, own order", "local_only"],
)
def test_it_is_the_run_on_all_data_dealt_by_site(method: str, settings: dict[str, Value], sets: Path, tmp_path: Path) -> None:
    settings = {key: str(sets / "public") if value == "PUBLIC" else value for key, value in settings.items()}
    own_order = str(settings.get("data.classes", "")).startswith("three")
    here = own(method, sets, tmp_path / "own", settings).results
    there = dealt(method, sets, tmp_path / "dealt", settings).results
    assert here["partition"]["classes"] == (["three", "one", "two"] if own_order else list(WORDS))
    assert here["partition"]["sites"] == ["site-a", "site-b", "site-c"]
    if own_order:
        return
    if method != "local_only":
        assert same(*(Outcome(tmp_path / name).model for name in ("own", "dealt")))
    assert here["final"] == there["final"] and here["partition"]["counts"] == there["partition"]["counts"]
    assert [entry["global"] for entry in here["rounds"]] == [entry["global"] for entry in there["rounds"]]
    if "augment" in settings:  # what one run had drawn on demand is found by the other: the same images by the same names
        told, other = here["augment"]["per_client"], there["augment"]["per_client"]
        assert [entry["real"] for entry in told] == [[6, 0, 6], [0, 6, 6], [6, 6, 0]] == [entry["real"] for entry in other]
        assert [entry["synthetic"] for entry in told] == [[0, 4, 0], [4, 0, 0], [0, 0, 4]]
        assert [entry["synthetic"] for entry in other] == [entry["synthetic"] for entry in told]
        assert [entry["reused"] for entry in other] == ([0, 0, 0] if "gen-fedsd.file" in settings else [4, 4, 4])
    assert here["settings"]["data.name"] == "own" and here["trained_on"][0]["data"]["data.name"] == "own"


FAST: dict[str, Value] = {**SMALL, "data.name": "own", "data.test": "held-out"}


def test_the_record_says_who_held_which_classes(sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = own("fedavg", sets, tmp_path / "run", {"num-server-rounds": 1})
    assert outcome.results["partition"]["held"] == [["one", "two"], ["three", "two"], ["one", "three"]]
    assert outcome.model["1.weight"].shape[0] == 3 and not outcome.results["notes"]
    make_report([outcome.folder])
    show_run(outcome.folder)
    assert "site-b (1): its own data, three, two" in capsys.readouterr().out
    hidden = own("fedavg", sets, tmp_path / "hidden", {"num-server-rounds": 1, "data.share-class-counts": False})
    assert hidden.results["partition"]["counts"] is None and same(hidden.model, outcome.model)


def test_what_is_drawn_for_another_class_has_its_agreed_number(sets: Path, tmp_path: Path) -> None:
    """Site c calls its classes 0 (one) and 1 (three); the images it is given of `two` have the run's number."""
    settings: dict[str, Value] = {**FILLED, "gen-fedsd.provider": "file", "gen-fedsd.file": str(sets / "public")}
    with world(3) as machines:
        at_home(machines, sets)
        outcome = machines.federate("fedavg", tmp_path / "run", {**FAST, **settings, "num-server-rounds": 1})
    client = outcome.results["augment"]["per_client"][2]
    assert client["real"][2] == 0 < client["synthetic"][2] and client["synthetic"][:2] == [0, 0]


def test_who_comes_late_with_another_class_is_left_out_and_told_why(sets: Path, tmp_path: Path) -> None:
    with world(3, on=(0, 1)) as machines:
        at_home(machines, sets, "abd")
        machines.when(1, "evaluate", lambda: machines.start(2))
        outcome = machines.federate("fedavg", tmp_path / "run", {**FAST, "num-server-rounds": 3})
    assert outcome.results["complete"] and outcome.results["partition"]["classes"] == list(WORDS)
    told = [note for note in outcome.results["notes"] if "cannot take part" in note]
    assert len(told) == 1 and "it holds images of four, and the run's classes are one, three, two; take them out" in told[0]
    assert {entry["client"] for entry in outcome.ledger if not entry["failure"]} == {0, 1}


def test_who_comes_late_with_fewer_classes_takes_part(sets: Path, tmp_path: Path) -> None:
    with world(3, on=(0, 1)) as machines:
        at_home(machines, sets)
        machines.when(1, "evaluate", lambda: machines.start(2))
        outcome = machines.federate("fedavg", tmp_path / "run", {**FAST, "num-server-rounds": 3})
    assert outcome.results["partition"]["counts"][2][1] > 0 == outcome.results["partition"]["counts"][2][2]
    assert {entry["client"] for entry in outcome.ledger if not entry["failure"] and entry["round"] == 3} == {0, 1, 2}


def test_a_resumed_run_has_its_classes_whoever_is_there(sets: Path, tmp_path: Path) -> None:
    """Sites a and b begin; c, which has no `two`, and a changed b, which now has `four`, come to the rest of it."""
    with world(3, on=(0, 1)) as machines:
        at_home(machines, sets)
        machines.federate("fedavg", tmp_path / "run", {**FAST, "nodes.least": 1})
    assert load(tmp_path / "run").facts["classes"] == list(WORDS)
    more: dict[str, Value] = {"num-server-rounds": 4, "resume": True, "nodes.least": 1}
    with world(3, on=(1, 2)) as machines:
        at_home(machines, sets, "adc")
        outcome = machines.federate("fedavg", tmp_path / "run", {**FAST, **more})
    assert outcome.results["partition"]["classes"] == list(WORDS) and outcome.model["1.weight"].shape[0] == 3
    assert {e["client"] for e in outcome.ledger if not e["failure"] and e["round"] > 2} == {2}
    assert any("it holds images of four" in note for note in outcome.results["notes"])


@pytest.mark.parametrize(
    ("settings", "sites", "kind", "said"),
    [
        (
            {"data.classes": "one,two", "nodes.least": 1},
            "abc",
            None,
            "holds images of class 'three', which data.classes = 'one,two' lacks",
        ),
        ({"data.name": "digits", "data.image-size": 8}, "abc", None, ""),
        ({}, "xyz", SettingError, "client 0: data-folder = '.*/x': there is no such folder on this machine"),
        ({}, "uuu", FederationError, "all nodes' images are of one class, 'one', so that every accuracy would be 100 %"),
    ],
    ids=["not listed", "dealt as before", "no folder", "one class"],
)
def test_what_nodes_cannot_bring_is_told(
    settings: dict[str, Value], sites: str, kind: type[Exception] | None, said: str, sets: Path, tmp_path: Path
) -> None:
    write_site(sets / "u", "classes", [("one", i) for i in range(6)], WORDS)
    with world(3) as machines:
        at_home(machines, sets, sites)
        if kind is None:
            outcome = machines.federate("fedavg", tmp_path / "run", {**FAST, "num-server-rounds": 1, **settings})
            assert said in " ".join(outcome.results["notes"]) and len(outcome.results["partition"]["classes"]) == (
                2 if said else 10
            )
            return
        with pytest.raises(kind, match=said):
            machines.federate("fedavg", tmp_path / "run", {**FAST, **settings})


def test_a_node_without_a_folder_and_a_simulated_one_say_what_to_do(sets: Path, tmp_path: Path) -> None:
    with (
        world(2) as machines,
        pytest.raises(SettingError, match=r"client 0: data\.name = 'own', and this node's .* has no data-folder"),
    ):
        machines.federate("fedavg", tmp_path / "real", FAST)
    with pytest.raises(SettingError, match="a simulated client has none: take another data.name"):
        run("fedavg", tmp_path / "simulated", FAST)


def test_names_that_differ_in_spelling_are_remarked(sets: Path, tmp_path: Path) -> None:
    write_site(sets / "v", "classes", [(word, i) for word in ("One", "two") for i in range(6)], ("One", "two"))
    with world(2) as machines:
        at_home(machines, sets, "av")
        outcome = machines.federate("fedavg", tmp_path / "run", {**FAST, "num-server-rounds": 1})
    assert outcome.results["partition"]["classes"] == ["One", "one", "two"]
    assert outcome.results["notes"] == [
        "classes 'One' and 'one' differ in spelling alone and count as different; if they are one, rename them"
    ]


# Tables

TABLES: dict[str, Value] = {
    "data.name": "own", "data.label-column": "price", "task": "regression", "model.name": "mlp", "data.standardise": "none",
    "data.test": "split", "num-server-rounds": 2, "local-epochs": 1, "learning-rate": 0.001, "server-threads": 1,
    "nodes.gather-timeout": 30.0,
}  # fmt: skip


def lines(site: int, order: str = "xz") -> str:
    """A site's rows, its columns in an order of its own."""
    rows = [{"x": (i % 7) / 7, "z": ((3 * i + site) % 5) / 5, "price": i / 9 + site} for i in range(9)]
    columns = [*order, "price"]
    return "\n".join([",".join(columns), *(",".join(str(row[column]) for column in columns) for row in rows)]) + "\n"


def tables(folder: Path, machines: Machines, *texts: str) -> None:
    for i, text in enumerate(texts):
        (folder / f"site-{i}").mkdir(parents=True)
        (folder / f"site-{i}" / "rows.csv").write_text(text)
        (folder / f"site-{i}" / "test.csv").write_text(text)
    machines.node_config = {i: {"site": f"site-{i}", "data-folder": str(folder / f"site-{i}")} for i in range(len(texts))}


def test_tables_of_sites_are_the_run_on_all_rows_dealt_by_site(tmp_path: Path) -> None:
    with world(2) as machines:
        tables(tmp_path, machines, lines(0), lines(1, "zx"))
        here = machines.federate("fedavg", tmp_path / "own", TABLES)
    (tmp_path / "all").mkdir()
    for i in range(2):
        (tmp_path / "all" / f"s{i}.csv").write_text(lines(i))
    (tmp_path / "all" / "test.csv").write_text("x,z,price,site\n0.1,0.2,0.5,s0\n0.4,0.2,1.5,s1\n")
    settings = {**TABLES, "data.name": str(tmp_path / "all"), "data.partition": "natural"}
    there = run("fedavg", tmp_path / "dealt", settings, clients=2)
    assert same(here.model, there.model) and here.results["partition"]["classes"] == ["price"]
    assert here.results["inputs"] == {"shape": [2], "dtype": "float32", "vocabulary": 0, "columns": ["x", "z"]}


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (lines(1).replace("x", "size", 1), "the nodes disagree on their inputs: column 'size' is not in all tables"),
        (lines(1).replace("0.2,", "secret,", 1), "line 2, column 'z' holds a text, which is not a number"),
        (lines(1).replace("0.2,", ",", 1), "1 values are missing, first line 2, column 'z'"),
    ],
)
def test_a_table_that_does_not_fit_is_told_without_what_it_holds(other: str, said: str, tmp_path: Path) -> None:
    with world(2) as machines:
        tables(tmp_path, machines, lines(0), other)
        try:
            told = " ".join(machines.federate("fedavg", tmp_path / "own", {**TABLES, "nodes.least": 1}).results["notes"])
        except FederationError as error:
            told = str(error)
    assert said in told and "secret" not in told and "rows.csv" not in told

"""The report's page, read back with an HTML parser: numbers, pictures, self-containment, several runs, errors, atomicity."""

from __future__ import annotations

import html
import json
import os
import re
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from fedwarm.catalogue import parse
from fedwarm.core.text import visible
from fedwarm.data import load_shard
from fedwarm.data.settings import Data
from fedwarm.record.folder import RunFolder
from fedwarm.record.ledger import Ledger
from fedwarm.record.measure import Measure
from fedwarm.record.reading import Best, read_run
from fedwarm.record.record import Record
from fedwarm.report.page import make_report
from fedwarm.settings.fields import SettingError, Value
from tests.report_page import Page, assert_stands_alone, entry, pixels, results, settings, write


def write_pictures(folder: Path, classes: dict[int, list[int]]) -> dict[str, np.ndarray[Any, np.dtype[np.uint8]]]:
    draws = np.random.default_rng(0)
    drawn = {f"client-{k}": draws.integers(0, 256, (len(c), 5, 3, 32, 32), dtype=np.uint8) for k, c in classes.items()}
    (folder / "pictures").mkdir()
    metadata = {f"client-{k}": json.dumps(c) for k, c in classes.items()}
    save_file(drawn, folder / "pictures" / "generated.safetensors", metadata=metadata)
    return drawn


def test_numbers_of_one_run(tmp_path: Path) -> None:
    document = results([0.5, 0.6251], num_server_rounds=2)
    document["notes"] = ["a <word> & more"]
    ledger = [entry("train", 0, 500, 900), entry("train", 1, 700, 900), entry("evaluate", 0, 3, 900)]
    path = make_report([write(tmp_path / "run", document, ledger)])
    assert path == tmp_path / "run" / "report.html"
    page = Page(path)
    assert_stands_alone(page)
    assert page.facts["Global accuracy"] == "62.5 %worst tenth 52.5 %"
    assert page.facts["Personal mean"] == "–no personal models"
    assert page.facts["Up per client"] == "2.00 kB4.00 kB in all"
    assert page.facts["Down per client"] == "4.00 kB8.00 kB in all"
    assert page.facts["Time"] == "6 min 12 s2 rounds"
    assert page.tables["Rounds"][1] == ["0", "50.0 %", "40.0 %", "–", "–", "2.00 kB", "4.00 kB", "77 B", "1.50 s"]
    assert page.tables["Rounds"][2][:3] == ["1", "62.5 %", "52.5 %"]
    assert page.tables["Clients"][1] == ["0", "12", "52.5 %", "–", "500 B", "510 B", "900 B", "910 B", "2.00 s"]
    assert page.tables["Clients"][2] == ["1", "6", "72.5 %", "–", "700 B", "710 B", "900 B", "910 B", "2.00 s"]
    assert page.tables["Examples per client and class"][1:] == [
        ["0", "5", "0", "7", "12"],
        ["1", "1", "2", "3", "6"],
        ["all", "6", "2", "10", "18"],
    ]
    assert page.tables["Stages"][1] == ["train", "–", "2", "1.20 kB", "1.22 kB", "1.80 kB", "1.82 kB", "2.00 s", "2.00 s"]
    assert [row[0:3] for row in page.tables["Changed"][1:]] == [["method", "fedavg", "warmfed"], ["num-server-rounds", "2", "5"]]
    assert len(page.tables["At the default"]) - 1 == len(document["settings"]) - 2
    assert ["commit", "0123abcd"] in page.tables["Versions"] and ["python", "3.11.9"] in page.tables["Versions"]
    assert "Note: a <word> & more" in page.text and "a &lt;word&gt;" in page.source
    assert {found["aria-label"] for found in page.all("svg")} >= {"Global model by round: fedavg", "Accuracy by bytes up: fedavg"}
    assert make_report([tmp_path / "run"]).read_text() == page.source


def test_what_users_write_is_on_the_page_as_they_wrote_it(tmp_path: Path) -> None:
    """Markup of any kind is text, and what is no text at all is an escape: a page is always written."""
    texts = ["<script>alert(1)</script> q\"'&amp; {{ 7*7 }}", "[/b] {% x %} 數字 שלום", "\udcff \x1b[31m\x00 \u202egpj"]
    runs = []
    for i, text in enumerate(texts):
        document = results([0.5], data__name=text) | {"notes": [text]}
        document["partition"]["classes"] = [text, "b", "_c"]
        document["rounds"][0]["failures"] = [f"client 1: {text}"]
        runs.append(write(tmp_path / f"run-{i}", document))
    page = Page(make_report(runs, tmp_path / "page.html"))
    assert_stands_alone(page)
    assert "\x1b" not in page.source and "\x1a" not in page.source
    groups = [row[0] for row in page.tables["What was reached"][1:]]
    legends = " ".join(html.unescape(re.sub("<[^>]*>", " ", page.source)).split())
    for text, group in zip(texts, groups, strict=True):
        shown = visible(text).encode("utf-8", "backslashreplace").decode()
        assert f"data.name={shown}" in group and f"Note: {shown}" in page.text and f"client 1: {shown}" in page.text
        assert legends.count(f"fedavg, data.name={shown}") > 2


def test_one_round_is_shown_as_bars_of_both_models(tmp_path: Path) -> None:
    document = results([0.8], method="warmfed")
    document["rounds"][0]["personal"] = {"per_client": [0.85, 0.95]}
    document["final"]["personal"] = {"mean": 0.9, "worst": 0.85}
    document["stages"] = [{"round": 0, "name": "adapt", "seconds": 9.0}, {"round": 0, "name": "generate", "seconds": 61.0}]
    page = Page(make_report([write(tmp_path / "run", document, [entry("adapt", 0, 9, 9)])]))
    labels = [found["aria-label"] for found in page.all("svg")]
    assert labels == ["Last accuracy on each client's own test images: warmfed", "Time by stage: warmfed"]
    assert page.facts["Personal mean"] == "90.0 %worst tenth 85.0 %" and page.facts["Worst personal"] == "85.0 %"
    assert page.tables["Stages"][1][:3] == ["adapt", "9.00 s", "1"]
    assert page.tables["Stages"][2] == ["generate", "1 min 01 s", "on the server"]


def test_no_global_model_no_counts_no_ledger(tmp_path: Path) -> None:
    document = results([None], method="local_only")
    document["rounds"][0]["personal"] = {"per_client": [0.5, None]}
    document["final"]["personal"] = {"mean": 0.5, "worst": 0.5}
    document["partition"]["counts"] = None
    document["complete"] = False
    document["rounds"][0]["failures"] = ["client 1, train: the reply holds NaN"]
    page = Page(make_report([write(tmp_path / "run", document)]))
    assert_stands_alone(page)
    assert page.facts["Global accuracy"] == "–no global model"
    assert "did not share" in page.text and "no ledger" in page.text and "not finished" in page.text
    assert "round 0, client 1, train: the reply holds NaN" in page.text
    assert page.tables["Clients"][2] == ["1", "–", "–", "–", "–", "–", "–", "–", "–"]


def test_generated_pictures_stand_beside_real_ones(tmp_path: Path) -> None:
    flat = settings(method="warmfed", seed=3)
    document = results([0.8], method="warmfed") | {"settings": flat, "seed": 3}
    document["partition"]["classes"] = [str(c) for c in range(10)]
    folder = write(tmp_path / "run", document)
    drawn = write_pictures(folder, {0: [2, 7], 1: [7]})
    page = Page(make_report([folder]))
    assert_stands_alone(page)
    assert page.tables["Pictures"][0] == ["client", "", "2", "7"]
    pictures = {found["alt"]: pixels(found["src"]) for found in page.all("img")}
    assert "generated, client 1, class 2" not in pictures and len(pictures) == 7
    generated = pictures["generated, client 0, class 7"]
    assert np.array_equal(generated[:96:3, :96:3, :3], drawn["client-0"][1, 0].transpose(1, 2, 0))
    assert np.array_equal(generated[-96::3, -96::3, :3], drawn["client-0"][1, 3].transpose(1, 2, 0))
    shard = load_shard(parse(flat).of(Data), 3, 1, 2)
    first = np.asarray(shard.train_images)[np.flatnonzero(np.asarray(shard.train_labels) == 7)[0]]
    assert np.array_equal(pictures["real, client 1, class 7"][:96:3, :96:3, :3], first.transpose(1, 2, 0))


def test_generated_pictures_stand_alone_without_the_data(tmp_path: Path) -> None:
    document = results([0.8], method="warmfed", data__name=str(tmp_path / "gone"))
    folder = write(tmp_path / "run", document)
    write_pictures(folder, {0: [0]})
    page = Page(make_report([folder]))
    assert "The data set could not be loaded here" in page.text
    assert [found["alt"] for found in page.all("img")] == ["generated, client 0, class a"]
    (folder / "pictures" / "generated.safetensors").write_bytes(b"no tensors")
    assert "pictures cannot be read" in Page(make_report([folder])).text


@pytest.mark.parametrize("chosen", [{"privacy": "dp-sgd"}, {"codec": "dp-rec"}], ids=str)
def test_a_private_run_shows_no_training_images(chosen: dict[str, Value], tmp_path: Path) -> None:
    """They are on this machine, but a page is passed on."""
    document = results([0.8], method="warmfed") | {"settings": {**settings(method="warmfed"), **chosen}}
    folder = write(tmp_path / "run", document)
    write_pictures(folder, {0: [2]})
    page = Page(make_report([folder]))
    assert [found["alt"].split(",")[0] for found in page.all("img")] == ["generated"]
    assert "Training images of this run are private" in page.text


def test_several_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [write(tmp_path / f"f{seed}", results([0.5, 0.6 + 0.02 * seed], seed=seed)) for seed in range(3)]
    folders.append(write(tmp_path / "long", results([0.5, 0.6, 0.9], num_server_rounds=3, fedprox__mu=0.7)))
    folders.append(write(tmp_path / "c", results([0.9, 0.95], method="centralized")))
    monkeypatch.chdir(tmp_path)
    path = make_report([*folders, folders[0]])
    assert path == tmp_path / "fedwarm-report.html"
    page = Page(path)
    assert_stands_alone(page)
    rows = page.tables["What was reached"]
    assert rows[0][2:] == ["global accuracy", "global, mean over clients", "global, worst tenth"]
    assert [row[0] for row in rows[1:]] == [
        "fedavg num-server-rounds=5",
        "f0",
        "f1",
        "f2",
        "fedavg num-server-rounds=3",
        "centralized (reference, not federated)",
    ]
    deviation = statistics.stdev([60.0, 62.0, 64.0])
    assert rows[1][1:3] == ["3 runs", f"62.0 % ± {deviation:.1f} %"]
    assert rows[2][1:3] == ["0", "60.0 %"] and rows[5][1:3] == ["0", "90.0 %"]
    assert rows[1][3:] == [f"62.0 % ± {deviation:.1f} %", f"52.0 % ± {deviation:.1f} %"]
    costs = page.tables["What it cost"]
    assert costs[0][2:] == ["up per client", "bytes up", "bytes down", "time", "replies left out"]
    assert costs[1][1:] == ["3 runs", "2.00 kB", "4.00 kB", "8.00 kB", "6 min 12 s ± 0.00 s", "0"]
    assert costs[5][2:] == ["3.00 kB", "6.00 kB", "12.0 kB", "6 min 12 s", "0"]
    labels = [found["aria-label"] for found in page.all("svg")]
    assert labels[:4] == [
        "Global accuracy by round",
        "Global accuracy by bytes up, all clients together",
        "Global accuracy by time",
        "Global accuracy on the worst tenth of the clients by round",
    ]
    assert "fedavg, num-server-rounds=5 (mean of 3)" in page.text
    folded = [found for found in page.all("details") if found.get("class") == "run"]
    assert len(folded) == 5 and all("open" not in found for found in folded)


def test_fairness_best_privacy_and_failures_are_compared(tmp_path: Path) -> None:
    """Twenty clients: the worst tenth are two. Columns stand only where a run has something to say."""
    shares = [0.5 + 0.02 * i for i in range(20)]
    folders = []
    for seed, (best, epsilon) in enumerate([(0.9, 2.0), (0.8, 4.0)]):
        document = results([0.7], method="warmfed", seed=seed)
        document["partition"] = {"clients": 20, "classes": ["a"], "counts": None}
        document["rounds"][0]["global"]["per_client"] = shares
        document["rounds"][0]["personal"] = {"per_client": [min(1.0, s + 0.1) for s in shares]}
        document["rounds"][0]["failures"] = ["client 1, train: the reply holds NaN"] * (1 + 2 * seed)
        document["rounds"][0]["seconds"] = 100.0 * (1 + seed)
        document["final"]["personal"] = {"mean": 0.79, "worst": 0.6}
        document["best"] = {"round": 3 + seed, "watch": "personal", "value": best}
        document["privacy"] = {"epsilon": epsilon, "delta": 1e-5, "unit": "example"}
        folders.append(write(tmp_path / f"s{seed}", document))
    page = Page(make_report([*folders, write(tmp_path / "plain", results([0.6]))], tmp_path / "page.html"))
    assert_stands_alone(page)
    reached, costs = page.tables["What was reached"], page.tables["What it cost"]
    assert reached[0][3:] == [
        "global, mean over clients",
        "global, worst tenth",
        "personal, mean",
        "personal, worst tenth",
        "personal, worst",
        "best",
        "in round",
    ]
    mean_best = f"85.0 % ± {100 * statistics.stdev([0.9, 0.8]):.1f} %"
    means = [f"{share:.1f} % ± 0.0 %" for share in (69, 51, 79, 61, 60)]
    assert reached[1][3:] == [*means, mean_best, f"3.5 ± {statistics.stdev([3, 4]):.4g}"]
    assert reached[2][-2:] == ["90.0 %", "3"] and reached[4][5:] == ["–"] * 5
    assert costs[0][-2:] == ["epsilon", "replies left out"]
    assert costs[1][-2:] == [f"3 ± {statistics.stdev([2, 4]):.4g}", f"2 ± {statistics.stdev([1, 3]):.4g}"]
    assert costs[3][-2:] == ["4", "3"] and costs[4][-2:] == ["–", "0"]
    assert "Best is the best personal accuracy of any round" in page.text
    assert "minutes since the start" in page.source
    single = Page(make_report([folders[0]]))
    assert single.facts["Best personal accuracy"] == "90.0 %in round 3" and single.facts["Epsilon"] == "2"
    assert single.tables["What was spent"] == [["epsilon", "2"], ["delta", "1e-05"], ["unit", "example"]]


def test_the_best_of_different_things_is_not_compared(tmp_path: Path) -> None:
    folders = []
    for watch, place, value in (("auroc", "validation", 0.9), ("accuracy", "test", 0.8)):
        document = results([0.7])
        words = {"title": "AUROC", "better": "higher", "share": True, "pooled": "sums"}
        document["evaluation"] = {"metrics": {"auroc": words}, "counted": True}
        document["best"] = {"round": 1, "watch": watch, "value": value, "measured_on": place}
        folders.append(write(tmp_path / watch, document))
    page = Page(make_report(folders, tmp_path / "page.html"))
    table = page.tables["What was reached"]
    at = table[0].index("best AUROC, on validation")
    assert table[0][at + 1] == "best global accuracy, on test examples" and table[0][at + 2] == "in round"
    assert {tuple(row[at : at + 2]) for row in table[1:]} >= {("90.0 %", "–"), ("–", "80.0 %")}
    single = Page(make_report([folders[1]]))
    assert single.facts["Best global accuracy"] == "80.0 %in round 1, on test examples"


def test_of_numbers_nothing_is_said_of_classes(tmp_path: Path) -> None:
    document = results([None])
    words = {"title": "RMSE", "better": "lower", "share": False, "pooled": "sums"}
    document["evaluation"] = {"metrics": {"rmse": words}, "counted": False}
    document["partition"] = {"clients": 2, "classes": ["y"], "counts": None}
    assert "did not share" not in Page(make_report([write(tmp_path / "run", document)])).text


def _broken(tmp_path: Path, text: str) -> list[Path]:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results.json").write_text(text)
    return [tmp_path / "run"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "has schema None; this fedwarm reads schema 1"),
        (json.dumps(results([0.5]) | {"schema": 2}), "has schema 2; this fedwarm reads schema 1"),
        (json.dumps({"schema": 1}), "does not follow schema 1: KeyError: 'final'"),
        (json.dumps(results([0.5]) | {"rounds": [3]}), "does not follow schema 1"),
    ],
)
def test_bad_results_are_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingError) as caught:
        make_report(_broken(tmp_path, text))
    assert said in str(caught.value) and str(tmp_path / "run") in str(caught.value) and "\n" not in str(caught.value)
    assert os.listdir(tmp_path / "run") == ["results.json"]


def test_bad_places_are_refused(tmp_path: Path) -> None:
    good = write(tmp_path / "run", results([0.5]))
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingError, match="no run folder given"):
        make_report([])
    with pytest.raises(SettingError, match="is not a run folder, as it has no results"):
        make_report([good, tmp_path / "other"])
    with pytest.raises(SettingError, match="is a folder"):
        make_report([good], tmp_path)
    with pytest.raises(SettingError, match="cannot be written"):
        make_report([good], tmp_path / "file" / "report.html")
    assert make_report([good], tmp_path / "new" / "page.html").is_file()


def test_a_page_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "run", results([0.5]))
    (folder / "report.html").write_text("the old page")
    seen: list[str] = []

    def refuse(source: Path, target: Path) -> None:
        seen.append(Path(source).read_text()[-8:])
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        with pytest.raises(SettingError, match="Permission denied"):
            make_report([folder])
    assert seen == ["</html>\n"]
    assert (folder / "report.html").read_text() == "the old page"
    assert sorted(os.listdir(folder)) == ["report.html", "results.json"]


def test_reads_what_the_record_writes(tmp_path: Path) -> None:
    record = Record(parse(settings(method="fedavg")), Ledger([entry("train", 0, 500, 900), entry("train", 1, 700, 900)]))
    record.open(record.config, ["a", "b"], [[1, 2], None])
    record.stage(0, "train", 1.25, [2.0, 3.0])
    record.measure(Measure(0, (10, 30), (5, 30), (None, None)))
    folder = RunFolder(tmp_path / "run")
    folder.append(record)
    folder.write(record)
    with (tmp_path / "run" / "ledger.jsonl").open("a") as file:
        file.write('{"round": 1, "sta')
    run = read_run(tmp_path / "run")
    assert (run.clients, run.counts, run.accuracy, run.personal_mean, run.complete) == (2, None, 35 / 40, None, False)
    assert run.best == Best(0, "accuracy", 35 / 40) and run.epsilon is None
    assert (run.up, run.rounds[0].up, run.rounds[0].clients, run.rounds[0].train_loss) == (1220, [510, 710], [0.5, 1.0], 2.5)
    assert run.stages == [("train", 1.25)] and len(run.ledger) == 2 and run.unread_lines == 1
    assert "1 line of ledger.jsonl" in Page(make_report([run.folder])).text


def test_many_clients_become_a_band_and_a_short_table(tmp_path: Path) -> None:
    document = results([0.5, 0.7])
    document["partition"] = {"clients": 150, "classes": ["a"], "counts": [[1]] * 150}
    for entry_ in document["rounds"]:
        entry_["global"]["per_client"] = [i / 150 for i in range(150)]
        entry_["bytes_up"] = entry_["bytes_down"] = [10] * 150
    page = Page(make_report([write(tmp_path / "run", document)]))
    assert len(page.tables["Clients"]) == 101 and "50 more stand in results.json" in page.text
    assert page.tables["Examples per client and class"][-1] == ["all", "150", "150"]
    assert "the middle 80 % of the clients" in page.text

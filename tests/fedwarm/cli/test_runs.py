"""What `fedwarm list`, `show` and `state` print, about real folders."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from fedwarm.cli import runs as listing
from fedwarm.core.text import cells, visible
from fedwarm.settings.fields import SettingError
from fedwarm.settings.text import literal
from tests.report_page import results, write

Capture = pytest.CaptureFixture[str]


def rows(text: str) -> list[list[str]]:
    """The cells of a printed table's lines: two blanks or more stand between them."""
    return [[cell.strip() for cell in line.strip().split("  ") if cell.strip()] for line in text.splitlines()]


def aged(place: Path, seconds: float) -> None:
    os.utime(place, (time.time() - seconds,) * 2)


def test_runs_are_listed_wherever_they_lie_the_newest_last(tmp_path: Path, capsys: Capture) -> None:
    new = write(
        tmp_path / "sweep" / "a-long-name-that-no-terminal-of-eighty-columns-would-hold-beside-its-cells", results([0.5, 0.75])
    )
    old = write(tmp_path / "old", results([0.25], method="local_only", seed=7) | {"complete": False})
    write(old / "clients", results([0.9]))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "results.json").write_text("{")
    for place, age in ((old, 7200), (tmp_path / "broken", 3600), (new, 60)):
        aged(place / "results.json", age)
    listing.list_runs(tmp_path)
    head, first, second, third = rows(capsys.readouterr().out)
    assert head == ["run", "method", "seed", "engine", "rounds", "state", "accuracy", "personal", "bytes up", "written"]
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime((old / "results.json").stat().st_mtime))
    assert first == ["old", "local_only", "7", "local", "0 of 5", "unfinished", "25.0 %", "–", "2.00 kB", when]
    assert second[:2] == ["broken", "–"] and "unreadable" in second
    assert third[:-1] == [f"sweep/{new.name}", "fedavg", "0", "local", "1 of 5", "complete", "75.0 %", "–", "4.00 kB"]


STRANGE = ["[bold]", "[/b]", "$x$ _a_", "数字 שלום ±", "a\x1b[31mb", "{c} %s", "q\"'<script>"]


@pytest.mark.parametrize("columns", ["", "80", "40", "20"])
def test_what_users_write_is_listed_and_shown_as_they_wrote_it(
    columns: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Square brackets are no markup, and no width costs a word."""
    monkeypatch.setenv("COLUMNS", columns)
    for i, text in enumerate(STRANGE):
        document = results([0.5], data__name=text, warmfed__prompt=f"{text} {{class}}") | {"notes": [text], "method": text}
        document["rounds"][0]["failures"] = [f"client 1: {text}"]
        write(tmp_path / f"{i} {text}", document)
    listing.list_runs(tmp_path)
    listed = capsys.readouterr().out
    for i, text in enumerate(STRANGE):
        expected = visible(text)
        told = shown(tmp_path / f"{i} {text}", capsys)
        folded = "".join(told.split())
        assert expected in told.splitlines()[0] and f"note: {expected}" in told and f"client 1: {expected}" in told
        assert "".join(literal(f"{text} {{class}}").split()) in folded and "".join(f"{i} {expected}".split()) in "".join(
            listed.split()
        )
        assert "\x1b" not in told + listed
    assert not columns or max(map(cells, listed.splitlines())) <= int(columns)


def test_a_run_folder_itself_is_listed(tmp_path: Path, capsys: Capture) -> None:
    listing.list_runs(write(tmp_path / "run", results([0.5])))
    assert rows(capsys.readouterr().out)[1][:2] == [".", "fedavg"]


def test_no_runs(tmp_path: Path, capsys: Capture) -> None:
    listing.list_runs(tmp_path)
    assert capsys.readouterr().out == f"no runs below {tmp_path}\n"
    with pytest.raises(SettingError, match="none is not a folder"):
        listing.list_runs(tmp_path / "none")


def shown(folder: Path, capsys: Capture) -> str:
    listing.show_run(folder)
    return capsys.readouterr().out


def full_document() -> dict[str, Any]:
    document = results([0.5, 0.75], method="warmfed", data__alpha=0.1, warmfed__prompt="a {class}")
    document["rounds"][1]["personal"] = {"per_client": [0.8, 0.9]}
    document["rounds"][1]["train_loss"] = 1.23456
    document["rounds"][1]["failures"] = [f"client {k}, train: the reply holds NaN" for k in range(25)]
    document["final"]["personal"] = {"mean": 0.85, "worst": 0.8}
    document["best"] = {"round": 1, "watch": "accuracy", "value": 0.75}
    document["privacy"] = {"epsilon": 3.14159265, "unit": "example"}
    document["notes"] = ["stopped after round 1: no better accuracy in 3 rounds"]
    return document


def test_a_run_is_shown(tmp_path: Path, capsys: Capture) -> None:
    text = shown(write(tmp_path / "run", full_document()), capsys)
    assert text.startswith("warmfed, seed 0, engine local, 2 clients, commit 0123abcd, complete\n")
    table = rows(text)
    at = table.index(["setting", "value", "default"])
    assert table[at + 1 : at + 3] == [["data.alpha", "0.1", "0.5"], ["warmfed.prompt", '"a {class}"', '"a photo of a {class}"']]
    assert table[at + 3] == []
    at = next(i for i, row in enumerate(table) if row[:2] == ["round", "accuracy"])
    assert table[at + 1] == ["0", "50.0 %", "40.0 %", "–", "–", "–", "2.00 kB", "4.00 kB", "1.5"]
    assert table[at + 2] == ["1", "75.0 %", "65.0 %", "85.0 %", "80.0 %", "1.235", "2.00 kB", "4.00 kB", "1.5"]
    totals = dict(row for row in table[table.index(["total"]) + 1 :] if len(row) == 2)
    assert totals == {
        "global accuracy": "75.0 %",
        "global, worst tenth": "65.0 %",
        "personal, mean": "85.0 %",
        "personal, worst tenth": "80.0 %",
        "personal, worst": "80.0 %",
        "best global accuracy": "75.0 % in round 1",
        "bytes up": "4.00 kB",
        "bytes down": "8.00 kB",
        "seconds": "372.0",
        "privacy, epsilon": "3.142",
        "privacy, unit": "example",
    }
    assert "25 replies were left out:" in text and "  round 1, client 19, train" in text and "client 20" not in text
    assert "and 5 more" in text and "note: stopped after round 1" in text


def test_a_run_with_nothing_to_say(tmp_path: Path, capsys: Capture) -> None:
    document = results([None], method="warmfed") | {"complete": False, "rounds": []}
    document["settings"]["gone"] = 1
    text = shown(write(tmp_path / "a", document), capsys)
    assert "unfinished" in text.splitlines()[0] and "no round was finished" in text and "accuracy" not in text
    assert ["gone", "1", "–"] in rows(text)
    del document["settings"]["gone"]
    assert "every setting is at its default" in shown(write(tmp_path / "b", document), capsys)
    with pytest.raises(SettingError, match="is not a run folder"):
        listing.show_run(tmp_path)


def test_a_run_without_right_answers_has_its_main_metric_in_accuracys_place(tmp_path: Path, capsys: Capture) -> None:
    document = results([None], method="fedavg_ft")
    words = {"title": "RMSE", "better": "lower", "share": False, "pooled": "sums"}
    document["evaluation"] = {"metrics": {"rmse": words}, "counted": False}
    document["rounds"][0]["global"]["metrics"] = {"rmse": {"value": 0.75, "per_client": [0.5, 1.0]}}
    document["rounds"][0]["personal"] = {"per_client": [None, None], "metrics": {"rmse": {"per_client": [0.25, 0.75]}}}
    document["best"] = {"round": 0, "watch": "worst", "value": 0.6002, "measured_on": "test"}
    folder = write(tmp_path / "run", document)
    table = rows(shown(folder, capsys))
    at = next(i for i, row in enumerate(table) if row[:3] == ["round", "RMSE", "personal"])
    assert table[at + 1][:4] == ["0", "0.75", "0.5", "–"]
    totals = dict(row for row in table[table.index(["total"]) + 1 :] if len(row) == 2)
    assert totals["RMSE"] == "0.75" and totals["personal, mean RMSE"] == "0.5"
    assert totals["best worst personal RMSE"] == "0.6002 in round 0, on test examples"
    listing.list_runs(tmp_path)
    head, row = rows(capsys.readouterr().out)
    assert head[6:9] == ["accuracy", "personal", "main metric"] and row[6:9] == ["–", "–", "RMSE 0.75"]

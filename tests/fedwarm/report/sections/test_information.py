"""The section of learning without labels, of a page that is read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fedwarm.record.reading import read_run
from fedwarm.report.page import make_report
from fedwarm.report.sections.information import COMPONENT, by_client, pooled
from tests.report_page import Page, assert_stands_alone, results, write

PARTS = {"within": 1.5, "first": 0.25, "second": -1.25, "alignment": 0.5, "uniformity": -2.0}


def folder(place: Path, whole: bool = True) -> Path:
    written = write(place, results([0.5, 0.6]))
    raw: dict[str, Any] = json.loads((written / "results.json").read_text())
    told = {"bound": 0.5, "client_accuracy": 0.4} if whole else {}
    entries = [{"round": number, **(PARTS if whole else {"within": 1.0}), **told} for number in (1, 2)]
    raw["measures"] = {
        "bound": {"rounds": [*entries, {"round": 3}]},
        "probes": {"by_client": {"linear": [0.5, None, 0.7]}, "pooled": {"linear": 0.8}},
    }
    (written / "results.json").write_text(json.dumps(raw))
    return written


def test_the_bound_its_parts_and_the_probes_are_on_the_page(tmp_path: Path) -> None:
    run = read_run(folder(tmp_path / "run"))
    assert by_client(run, "linear") == 0.6 and pooled(run, "linear") == 0.8 and pooled(run, "neighbours") is None
    page = Page(make_report([run.folder]))
    assert_stands_alone(page)
    rows = dict(page.tables["Without labels"][1:])
    assert rows["bound of I(z1; z2)"] == "0.500" and rows["view 2: E log r(s | z2)"] == "-1.250"
    assert rows["clients told apart"].startswith("40") and rows["linear probe, pooled"].startswith("80")
    assert len(COMPONENT.figures(run)) == 2


def test_without_verification_there_is_no_chart_of_it_and_runs_are_compared(tmp_path: Path) -> None:
    folders = [folder(tmp_path / name, whole) for name, whole in (("a", True), ("b", False))]
    assert COMPONENT.figures(read_run(folders[1])) == []
    both = Page(make_report(folders, tmp_path / "both.html"))
    assert_stands_alone(both)
    assert both.tables["Frozen encoders"][0][2:] == ["linear probe, pooled", "linear probe, by client"]

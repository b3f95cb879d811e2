"""The page of a sparse run, and of several beside others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedwarm.record.reading import read_run
from fedwarm.report.page import make_report
from fedwarm.report.sections.sparsity import COMPONENT, density
from tests.report_page import Page, assert_stands_alone, results, write

TOLD: dict[str, Any] = {
    "density": [1.0, 0.18], "layers": {"0": [1.0, 0.5], "3": [1.0, 0.125]}, "on": [48, 20], "gone": [0, 15], "returned": [0, 2],
    "groups": 48, "theta": {"bins": 4, "layers": {"0": [8, 0, 0, 8], "3": [15, 5, 0, 12]}},
}  # fmt: skip


def document(**measures: Any) -> dict[str, Any]:
    found = results([0.5, 0.9])
    found["measures"] = measures
    return found


def test_a_run_s_page_shows_density_groups_and_probabilities(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", document(gates=TOLD, pruned={"0.2": 0.75}))
    run = read_run(folder)
    assert density(run) == 0.18 and len(COMPONENT.figures(run)) == 3
    page = Page(make_report([folder]))
    rows = dict(row[:2] for row in page.tables["Sparsity"][1:])
    assert rows["density of layer 3"].startswith("12.5") and rows["groups that are gone for good"] == "15"
    assert rows["times that a group returned"] == "2"
    assert rows["accuracy, pruned by magnitude to a density of 0.2"].startswith("75")
    assert "Groups by their probability at the end." in page.text
    assert_stands_alone(page)


def test_runs_are_compared_by_density(tmp_path: Path) -> None:
    folders = [
        write(tmp_path / "a", document(gates=TOLD)),
        write(tmp_path / "b", document(pruned={"0.2": 0.75, "0.1": 0.5})),
    ]
    page = Page(make_report(folders, tmp_path / "both.html"))
    assert page.tables["Sparse models"][0][-3:] == ["density", "accuracy, pruned to 0.2", "accuracy, pruned to 0.1"]
    assert_stands_alone(page)

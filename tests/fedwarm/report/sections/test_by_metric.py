"""What a run's page shows of its metrics, and that pages of older runs are what they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedwarm.record.reading import read_run
from fedwarm.report.matrices import confusion_figure, reliability_figure
from fedwarm.report.page import make_report
from fedwarm.report.sections.by_metric import COMPONENT, final
from tests.report_page import results, write

WORDS = {
    "f1": {"title": "F1", "better": "higher", "share": True, "pooled": "sums"},
    "rmse": {"title": "Root mean squared error", "better": "lower", "share": False, "pooled": "sums"},
    "confusion-matrix": {"title": "Confusion matrix", "better": "higher", "share": False, "pooled": "sums"},
    "calibration-error": {"title": "Calibration error", "better": "lower", "share": True, "pooled": "sums"},
}


def with_metrics(folder: Path) -> Path:
    told: dict[str, Any] = results([0.5, 0.6])
    for number, entry in enumerate(told["rounds"]):
        clients = [0.25 * number, None]
        entry["global"]["metrics"] = {
            "f1": {"value": 0.5, "per_client": clients}, "rmse": {"value": 31.0 - number, "per_client": [30.0, 32.5]}
        }  # fmt: skip
    told["evaluation"] = {"test": "held-out", "split": None, "images": 9, "metrics": WORDS, "counted": True}
    bins = [[0, None, None]] * 14 + [[6, 0.95, 0.5]]
    told["final"]["tables"] = {
        "confusion-matrix": {"all": [[3, 1], [0, 0]], "per_client": [[[3, 1], [0, 0]], None]},
        "calibration-error": {"all": bins, "per_client": [bins, bins]},
    }
    return write(folder, told)


def test_the_page_has_curves_tables_and_pictures_of_metrics(tmp_path: Path) -> None:
    folder = with_metrics(tmp_path / "run")
    run = read_run(folder)
    shown = COMPONENT.shown(run)
    assert shown is not None and shown["headings"] == ["F1", "Root mean squared error"]
    assert shown["rows"][0]["cells"] == [(0.25 * (len(run.rounds) - 1), "percent"), (30.0, "number")]
    captions = [caption for _, caption in shown["figures"]]
    assert len(captions) == 5 and captions[1].startswith("Root mean squared error by round, lower is better")
    assert sum("Confusion matrix" in caption for caption in captions) == 2
    html = make_report([folder]).read_text()
    assert "Metrics by client" in html and "Right answers by confidence" in html
    assert final("rmse", run) == 31.0 - (len(run.rounds) - 1)
    assert [column.heading for column in COMPONENT.tables([run])[0][1]] == ["f1", "root mean squared error"]


def test_a_run_from_before_has_no_such_place(tmp_path: Path) -> None:
    run = read_run(write(tmp_path / "run", results([0.5, 0.6])))
    assert COMPONENT.shown(run) is None and COMPONENT.tables([run]) == []


def test_cells_are_shares_of_their_true_class_with_counts_in_them() -> None:
    axes = confusion_figure([[3, 1], [0, 0]], ("cat", "dog")).axes[0]
    assert [patch.get_alpha() for patch in axes.patches] == [0.75, 0.25, 0.0, 0.0]
    assert [text.get_text() for text in axes.texts] == ["3", "1"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog"]


def test_dots_stand_at_confidence_and_share_of_right_answers() -> None:
    axes = reliability_figure([[0, None, None], [4, 0.5, 0.75], [2, 0.9, 1.0]]).axes[0]
    assert axes.collections[0].get_offsets().tolist() == [[0.5, 0.75], [0.9, 1.0]]  # type: ignore[attr-defined, union-attr]

"""The page of a run with dynamic selection: which share of its images each client's rule selected, by model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedwarm.record.reading import read_run
from fedwarm.report.page import make_report
from fedwarm.report.sections.selected_share import COMPONENT, selected, shares_of
from tests.report_page import Page, results, write

MODELS = {"10": [0.25, None], "2": [0.9, 0.7], "0": [1.0, 0.5]}


def document(selection: Any) -> dict[str, Any]:
    return {**results([0.5, 0.6], method="warmfed"), "measures": {"selection": selection}}


def test_the_page_shows_the_shares_of_the_last_models_and_their_course(tmp_path: Path) -> None:
    """Models are sorted as numbers; a client that told nothing does not count."""
    models = {name: shares for name, shares in MODELS.items() if name != "10"}
    run = read_run(write(tmp_path / "run", document({"rule": "sample_better", "models": models})))
    assert shares_of(run) == [(0, [1.0, 0.5]), (2, [0.9, 0.7])] and selected(run) == pytest.approx(0.8)
    page = Page(make_report([run.folder], tmp_path / "page.html"))
    assert "sample_better selected 80.0 % of a client’s images" in page.text and "from 70.0 % to 90.0 % by client" in page.text
    title = f"Share of images selected for distillation, by round: {run.title}"
    assert [found.get("aria-label") for tag, found in page.tags if tag == "svg"].count(title) == 1
    late = read_run(write(tmp_path / "late", document({"rule": "class_better", "models": MODELS})))
    assert [number for number, _ in shares_of(late)] == [0, 2, 10] and selected(late) == 0.25
    both = Page(make_report([run.folder, late.folder], tmp_path / "both.html"))
    assert "Selected for distillation" in both.text and "80.0 %" in both.text and "25.0 %" in both.text


def test_one_model_has_no_course(tmp_path: Path) -> None:
    run = read_run(write(tmp_path / "run", document({"rule": "always", "models": {"0": [1.0, 1.0]}})))
    shown = COMPONENT.shown(run)
    assert shown is not None and (shown["mean"], shown["low"], shown["high"], shown["figures"]) == (1.0, 1.0, 1.0, [])


@pytest.mark.parametrize("selection", [None, {}, {"models": {}}, {"rule": "always", "models": {"0": [None, None]}}])
def test_what_is_not_known_is_not_shown(selection: Any, tmp_path: Path) -> None:
    run = read_run(write(tmp_path / "run", document(selection)))
    assert COMPONENT.shown(run) is None and selected(run) is None

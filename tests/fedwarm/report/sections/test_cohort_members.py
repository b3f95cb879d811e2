"""The page of a run with cohorts: who is in which, and the temperature by round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedwarm.record.reading import read_run
from fedwarm.report.page import make_report
from fedwarm.report.sections.cohort_members import COMPONENT, cohorts_of, count, temperatures_of
from tests.report_page import Page, results, write

TOLD = {"clients": [0, 1, None, 0], "round": 2, "temperature": [0.25, 0.5], "noise": 1}


def document(told: Any) -> dict[str, Any]:
    return {**results([0.5, 0.6]), "measures": {"cohorts": told}}


def test_the_page_shows_who_is_in_which(tmp_path: Path) -> None:
    run = read_run(write(tmp_path / "run", document(TOLD)))
    assert cohorts_of(run) == {0: [0, 3], 1: [1]} and temperatures_of(run) == [0.25, 0.5] and count(run) == 2
    page = Page(make_report([run.folder], tmp_path / "page.html"))
    assert "Divided after round 2." in page.text and "Cohort 0: 2 clients: 0, 3" in page.text
    assert "Cohort 1, of those that are alike to no others: 1 client: 1" in page.text
    title = f"Temperature by round, until clients were divided: {run.title}"
    assert [found.get("aria-label") for tag, found in page.tags if tag == "svg"].count(title) == 1
    whole = read_run(write(tmp_path / "whole", document({**TOLD, "clients": [None] * 4, "round": None, "noise": None})))
    both = Page(make_report([run.folder, whole.folder], tmp_path / "both.html"))
    assert "Clients were not divided." in both.text and count(whole) is None


@pytest.mark.parametrize("told", [None, {}, {"clients": []}, {"clients": [None], "temperature": []}, {"clients": ["x"]}])
def test_what_is_not_known_is_not_shown(told: Any, tmp_path: Path) -> None:
    run = read_run(write(tmp_path / "run", document(told)))
    assert COMPONENT.shown(run) is None and COMPONENT.tables([run]) == []

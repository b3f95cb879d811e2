"""The page of a run with experts: who uses which, as a picture, and how that changed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from fedwarm.record.reading import read_run
from fedwarm.report.page import make_report
from fedwarm.report.sections.expert_use import COMPONENT, by_round, clients_of, used
from tests.report_page import Page, results, write

USAGE = {"clients": [[24.0, 0.0], [12.0, 12.0], None], "rounds": [[24.0, 24.0], [30.0, 18.0], [36.0, 12.0]]}


def document(usage: Any) -> dict[str, Any]:
    return {**results([0.5, 0.6]), "measures": {"usage": usage}}


def test_the_page_shows_who_uses_which(tmp_path: Path) -> None:
    run = read_run(write(tmp_path / "run", document(USAGE)))
    assert clients_of(run) == [[1.0, 0.0], [0.5, 0.5], None]
    assert used(run) == pytest.approx((1 + math.exp(math.log(2))) / 2)
    page = Page(make_report([run.folder], tmp_path / "page.html"))
    assert "a client uses 1.5 of 2 experts" in page.text and "Experts of each client" in page.text
    assert [found.get("aria-label") for tag, found in page.tags if tag == "svg"].count(f"Experts by client: {run.title}") == 1
    other = read_run(write(tmp_path / "other", document({"clients": [[1.0, 0.0]], "rounds": [[1.0, 0.0]]})))
    both = Page(make_report([run.folder, other.folder], tmp_path / "both.html"))
    assert "experts a client" in both.text and by_round(other) == []


@pytest.mark.parametrize("usage", [None, {}, {"clients": []}, {"clients": [None]}, {"clients": [["x"], [-1.0], 3]}])
def test_what_is_not_known_is_not_shown(usage: Any, tmp_path: Path) -> None:
    run = read_run(write(tmp_path / "run", document(usage)))
    assert COMPONENT.shown(run) is None and COMPONENT.tables([run]) == [] and used(run) is None and by_round(run) == []

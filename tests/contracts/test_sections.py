"""What every section of the report keeps, and that anybody can add one."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedwarm.record.reading import read_run
from fedwarm.report.page import make_report
from fedwarm.report.sections import Section, sections
from fedwarm.settings.kinds import SECTIONS
from fedwarm.settings.registry import summary
from tests.outsiders import installed
from tests.report_page import Page, assert_stands_alone, results, write

OUTSIDER = """
from fedwarm.report.sections import Measure, Section

class Patience(Section):
    \"\"\"How patient a run was.\"\"\"

    title, anchor, order, text = "Patience", "patience", 15, "Rounds that were waited."
    measures = {"patience": Measure("patience", "number", lambda run: run.settings["patience"])}
    template = (
        "{% from 'macros.html.j2' import scroll %}"
        "{% call scroll('Patience') %}<table><tr><td>{{ shown }} rounds</td></tr></table>{% endcall %}"
    )

    def shown(self, run):
        return run.settings["patience"]

    def tables(self, runs):
        return [("Patience of all", [self.measures["patience"]])] if any(map(self.shown, runs)) else []

class Broken(Section):
    title = anchor = "broken"

    def shown(self, run):
        raise ValueError("no luck")

PATIENCE, BROKEN = Patience(), Broken()
"""
POINTS = {"fedwarm.sections": {"patience": "outsider:PATIENCE", "broken": "outsider:BROKEN", "gone": "nowhere:X"}}


@pytest.mark.parametrize("name", SECTIONS.names())
def test_a_section_says_what_it_is_and_shows_nothing_of_a_run_that_has_none(name: str, tmp_path: Path) -> None:
    section: Section = SECTIONS.load(name)
    assert isinstance(section, Section) and section.title and section.anchor.isidentifier() and summary(section)
    run = read_run(write(tmp_path / "run", results([0.5, 0.6])))
    assert not section.shown(run) and section.figures(run) == section.compared({"one": [run]}) == section.tables([run]) == []
    assert all(measure.of(run) is None for measure in section.measures.values())


def test_headings_and_columns_are_each_one_section_s() -> None:
    every = sections()
    assert len({section.anchor for section in every}) == len({section.title for section in every}) == len(SECTIONS.own())
    named = [name for section in every for name in section.measures]
    assert len(named) == len(set(named))


def test_anybody_adds_a_section_and_one_that_fails_costs_the_page_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [write(tmp_path / name, results([0.5], patience=patience)) for name, patience in (("a", 3), ("b", 0))]
    with installed(tmp_path / "site", POINTS, OUTSIDER):
        one = Page(make_report(folders[:1]))
        none = Page(make_report(folders[1:]))
        both = Page(make_report(folders, tmp_path / "both.html"))
    assert one.tables["Patience"] == [["3 rounds"]] and '<a href="#patience">Patience</a>' in one.source
    assert "Patience" not in none.text
    assert both.tables["Patience of all"][1][-1] == "3" and "Rounds that were waited." in both.text
    assert "patience" in both.tables["What it cost"][0]
    for page in (one, none, both):
        assert_stands_alone(page)
    said = capsys.readouterr().err
    assert "section 'broken' is left out of the report: ValueError: no luck" in said
    assert "left out of the report: report section 'gone' cannot be loaded: nowhere:X of package outsider" in said

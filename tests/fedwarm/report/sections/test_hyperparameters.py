"""The section of learned hyperparameters, of a page that is read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fedwarm.record.reading import read_run
from fedwarm.report.page import make_report
from fedwarm.report.sections.hyperparameters import COMPONENT, lines
from tests.report_page import Page, assert_stands_alone, results, write

TOLD: dict[str, Any] = {
    "names": ["affine rotation", "mask", "mask"],
    "rounds": [{"round": 1, "values": [0.1, 1.0, 0.5]}, {"round": 2, "values": [1.5, 1.2, -0.2]}],
    "settings": {"some.chunks": 1, "some.psi": "1.5,1.2,-0.2"},
}


def test_where_they_came_to_and_the_settings_are_on_the_page(tmp_path: Path) -> None:
    written = write(tmp_path / "run", results([0.5, 0.6]))
    raw: dict[str, Any] = json.loads((written / "results.json").read_text())
    (written / "results.json").write_text(json.dumps({**raw, "measures": {"psi": TOLD}}))
    run = read_run(written)
    assert [(name, values.shape) for name, values in lines(TOLD)] == [("affine rotation", (2, 1)), ("mask", (2, 2))]
    page = Page(make_report([written]))
    assert_stands_alone(page)
    assert page.tables["Hyperparameters"][1:] == [["affine rotation", "0.1", "1.5"], ["mask, mean of 2", "0.75", "0.5"]]
    html = (written / "report.html").read_text()
    assert "some.psi = &#34;1.5,1.2,-0.2&#34;" in html and "some.chunks = 1" in html
    (figure,) = COMPONENT.figures(run)
    assert "<svg" in figure[0] and "Shaded" in figure[1]

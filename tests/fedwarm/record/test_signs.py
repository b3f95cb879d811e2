"""Sites' last signs of life: written while a run goes on, shown on its page, which is rebuilt meanwhile."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from fedwarm.launch.live import rebuilt
from fedwarm.record.signs import FILE, write_signs
from fedwarm.report import page
from fedwarm.report.render import piece
from fedwarm.report.sections.signs import COMPONENT
from tests.waiting import wait_until

NOW = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)


def test_the_page_tells_when_each_site_was_seen(tmp_path: Path) -> None:
    run = SimpleNamespace(folder=tmp_path)
    write_signs(tmp_path, [("lab-a", "online", 5.0)], NOW)
    assert COMPONENT.shown(run) is None and not [*tmp_path.iterdir()], "no run has begun there"  # type: ignore[arg-type]
    (tmp_path / "results.json").write_text("{}")
    write_signs(tmp_path, [("lab-b", "offline", 90.0), ("lab-a<", "online", 5.0), ("lab-c", "registered", None)], NOW)
    shown = COMPONENT.shown(run)  # type: ignore[arg-type]
    html = piece(COMPONENT.template, run=run, shown=shown, id="")
    assert "<td>lab-b</td><td>offline</td><td>2026-03-01 11:59:00 UTC</td>" in html
    assert "<td>lab-a&lt;</td><td>online</td><td>2026-03-01 12:00:25 UTC</td>" in html and "<td>never</td>" in html
    write_signs(tmp_path / "none", [], NOW)
    assert not (tmp_path / "none").exists()
    (tmp_path / FILE).write_text("[]")
    assert COMPONENT.shown(run) is None  # type: ignore[arg-type]


def test_a_page_is_rebuilt_while_a_run_goes_on_and_nothing_fails_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []

    def make(folders: list[Path]) -> None:
        made.extend(folders)
        raise ValueError("half a file")

    monkeypatch.setattr(page, "make_report", make)
    with rebuilt(tmp_path, wanted=True, seconds=0.01):
        (tmp_path / "results.json").write_text("{}")
        end = time.monotonic() + 60
        while not made and time.monotonic() < end:
            time.sleep(0.01)
    assert made[:1] == [tmp_path]
    with rebuilt(tmp_path, wanted=False):
        made.clear()
    assert not made


def test_a_page_is_rebuilt_for_new_signs_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a site hangs nothing else of a run changes."""
    made: list[str] = []

    def make(folders: list[Path]) -> None:
        made.append((folders[0] / FILE).read_text() if (folders[0] / FILE).exists() else "")

    monkeypatch.setattr(page, "make_report", make)
    (tmp_path / "results.json").write_text("{}")
    with rebuilt(tmp_path, wanted=True, seconds=0.01):
        wait_until(lambda: made == [""], 60, 0.01)
        write_signs(tmp_path, [("lab-a", "online", 5.0)], NOW)
        wait_until(lambda: "12:00:25 UTC" in made[-1], 20, 0.01)
        write_signs(tmp_path, [("lab-a", "offline", 15.0)], NOW)
        wait_until(lambda: "12:00:15 UTC" in made[-1], 20, 0.01)
        time.sleep(0.1)  # ten looks at files that did not change
    assert 3 <= len(made) <= 5  # a file may be written between a look at it and the page

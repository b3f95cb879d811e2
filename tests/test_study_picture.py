"""The picture of a study: what it shows of a study's numbers, and that all of it is in the file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.benches import loaded

STUDY = {
    "title": "Costs in $",
    "rows": [
        {"arm": "rounds", "number": None, "found": {"global": [0.8, 0.9]}, "up": 4e6, "work": 5.0},
        {"arm": "rounds", "number": 1, "found": {"global": [0.5, 0.7]}, "up": 4e5, "work": 0.5},
        {"arm": "nothing sent", "number": None, "found": {"global": [0.6]}, "up": 0.0, "work": 1.0},
        {"arm": "own models", "number": None, "found": {"global": [None, None]}, "up": 0.0, "work": 2.0},
    ],
}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    return loaded(monkeypatch, "study_picture")


def test_spots_are_means_with_their_standard_errors_by_cost(bench: Any) -> None:
    found = bench.arms_of(STUDY)
    assert [*found] == ["rounds", "nothing sent"]
    first, second = found["rounds"]
    assert (first.up, second.up) == (4e5, 4e6) and first.accuracy == pytest.approx(0.6) and first.error == pytest.approx(0.1)
    assert found["nothing sent"] == [bench.Spot(0.6, 0.0, 0.0, 1.0)]
    assert [*bench.arms_of(STUDY, ["rounds"])] == ["nothing sent"]
    with pytest.raises(SystemExit, match="no arm 'round'; it has: nothing sent, own models, rounds"):
        bench.arms_of(STUDY, ["round"])
    with pytest.raises(SystemExit, match="leave out fewer"):
        bench.arms_of(STUDY, ["rounds", "nothing sent"])


def test_the_picture_holds_every_arm_and_is_the_same_each_time(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "study.json").write_text(json.dumps(STUDY))
    pictures = [tmp_path / name for name in ("one.svg", "two.svg", "three.png")]
    for picture in pictures:
        monkeypatch.setattr(sys, "argv", ["study_picture.py", str(tmp_path / "study.json"), str(picture)])
        bench.main()
    text = pictures[0].read_text()
    for shown in ("<!-- rounds -->", "<!-- nothing sent -->", "<!-- 1 MB -->", "<!-- 0 -->", "<!-- bytes up, a client -->"):
        assert shown in text, shown
    assert pictures[1].read_text() == text and pictures[2].read_bytes().startswith(b"\x89PNG")


def test_ticks_are_few_and_round(bench: Any) -> None:
    assert bench.powers(1.2e5, 2e6) == [1e5, 2e5, 5e5, 1e6, 2e6]
    assert bench.powers(0.05, 60) == pytest.approx([0.1, 0.3, 1, 3, 10, 30])
    assert len(bench.powers(1e-3, 1e9)) <= bench.TICKS
    assert bench.short("0.10 s") == "0.1 s" and bench.short("6 min 40 s") == "6 min 40 s"

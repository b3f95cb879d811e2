"""Accuracy against bits per parameter: shown where runs paid differently, with spread and epsilon."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedwarm.record.reading import read_run
from fedwarm.report.compare import grouped
from fedwarm.report.measured import bits_up
from fedwarm.report.overlaid import _line, by_bits
from fedwarm.report.page import make_report
from fedwarm.report.scatter import Point, points
from tests.report_page import Page, results, write

TITLE = "Global accuracy by bits per parameter up, a client's reply"


def document(accuracy: float, seed: int, bits: float | None, privacy: dict[str, Any] | None, **changed: Any) -> dict[str, Any]:
    found = results([accuracy], method="dp_rec", seed=seed, **changed)
    found["totals"] |= {"parameters": 7690, "bits_per_parameter_up": bits}
    return found | {"privacy": privacy}


def test_runs_of_more_clients_are_no_other_seeds(tmp_path: Path) -> None:
    paths = []
    for clients in (2, 3):
        found = results([0.5], method="fedavg", seed=0)
        found["partition"] |= {"clients": clients}
        paths.append(write(tmp_path / str(clients), found))
    runs = [replace(read_run(path), clients=clients) for path, clients in zip(paths, (2, 3), strict=True)]
    assert [label.rpartition(", ")[2] for label in grouped(runs)] == ["2 clients", "3 clients"]


def test_a_mean_curve_ends_where_a_run_of_it_ends(tmp_path: Path) -> None:
    """One run stopped early: from there on there is no mean of all."""
    long, short = results([0.1, 0.2, 0.9], method="fedavg", seed=0), results([0.1, 0.4], method="fedavg", seed=1)
    runs = [read_run(write(tmp_path / name, found)) for name, found in (("long", long), ("short", short))]
    line = _line("a", 0, runs, lambda r: r.accuracy, "")
    assert line.x == [0, 1] and line.y == pytest.approx([0.1, 0.3])


def arms(folder: Path) -> list[Path]:
    estimate = {"epsilon": 0.999, "view": "central_limit", "certified": False}
    proven = {"epsilon": 1.0, "view": "central_certified", "certified": True}
    found = []
    for seed, accuracy in enumerate((0.80, 0.84)):
        coded = document(accuracy, seed, 0.01, estimate, dp_rec__bits=7)
        dense = document(accuracy + 0.01, seed, 32.0, proven, dp_rec__mechanism="gaussian")
        clear = document(0.9, seed, 32.0, None, dp_rec__mechanism="none")
        found += [write(folder / f"{name}-{seed}", d) for name, d in (("c", coded), ("g", dense), ("n", clear))]
    return found


def test_the_page_has_table_and_chart_of_bits(tmp_path: Path) -> None:
    page = Page(make_report(arms(tmp_path), tmp_path / "page.html"))
    assert TITLE in [found["aria-label"] for found in page.all("svg")]
    assert f"{TITLE}; bars: one standard deviation over seeds." in page.text
    assert "epsilon 0.999 (not certified)" in page.text and "epsilon 1" in page.text
    costs = page.tables["What it cost"]
    column = costs[0].index("bits per parameter up")
    assert [row[column] for row in costs[1:]] == ["0.01"] * 3 + ["32"] * 6


def test_each_group_is_one_mark_with_its_own_spread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = grouped([read_run(folder) for folder in arms(tmp_path)])
    seen: list[Point] = []

    def watched(shown: Sequence[Point], alt: str, x_label: str) -> str:
        seen.extend(shown)
        return points(shown, alt, x_label)

    monkeypatch.setattr("fedwarm.report.overlaid.points", watched)
    by_bits(groups)
    assert [(p.x, p.style) for p in seen] == [(0.01, 0), (32.0, 1), (32.0, 2)]
    assert [p.y for p in seen] == pytest.approx([0.82, 0.83, 0.9])
    assert [p.deviation for p in seen] == pytest.approx([statistics.stdev((0.80, 0.84))] * 2 + [0.0])
    assert ["epsilon" in p.label for p in seen] == [True, True, False]


def test_runs_that_cost_the_same_or_nothing_known_have_no_such_chart(tmp_path: Path) -> None:
    same = [write(tmp_path / f"s{i}", document(0.8, 0, 32.0, None, local_epochs=i + 1)) for i in range(2)]
    older = [write(tmp_path / f"o{i}", results([0.8], local_epochs=i + 1)) for i in range(2)]
    for folders in (same, older):
        assert by_bits(grouped([read_run(folder) for folder in folders])) == []
    assert [bits_up(read_run(folder)) for folder in (same[0], older[0])] == [32.0, None]
    assert TITLE not in make_report(same, tmp_path / "page.html").read_text()

"""Accuracy against bits: what training saw, the chart's marks, one run's table, and several methods side by side."""

from __future__ import annotations

import re
import statistics
from pathlib import Path
from typing import Any

import pytest

from fedwarm.record.reading import Run, read_run
from fedwarm.report.by_width import WidthLine, by_width
from fedwarm.report.compare import grouped
from fedwarm.report.page import make_report
from fedwarm.report.plots import ID_PREFIX
from fedwarm.report.sections.widths import MARKS, at_bits, of_float, rows, seen
from tests.report_page import Page, results, write

MEASURED = {"w8": 0.9, "w4": 0.85, "w2": 0.4, "w8a8": 0.89, "w4a4": 0.8, "w2a2": 0.2}


def document(measured: dict[str, float], accuracy: float = 0.9, **changed: Any) -> dict[str, Any]:
    found = results([accuracy - 0.2, accuracy], **changed)
    found["final"]["bit_widths"] = measured
    return found


def run(folder: Path, measured: dict[str, float] = MEASURED, **changed: Any) -> Run:
    return read_run(write(folder, document(measured, **changed)))


@pytest.mark.parametrize(
    ("changed", "weights", "both"),
    [
        ({}, set(), set()),
        ({"objective": "kure"}, set(), set()),
        ({"objective": "qat", "quantization_robust__bits": 3}, {3}, set()),
        ({"objective": "qat", "quantization_robust__quantize_activations": True}, {4}, {4}),
        ({"objective": "mqat", "quantization_robust__train_bits": "2, 8"}, {2, 8}, set()),
        ({"objective": "apqn"}, {2, 4, 6, 8}, set()),
        ({"objective": "apqn", "quantization_robust__apqn_width": "fixed"}, {4}, set()),
        ({"method": "quantization_robust"}, {2, 4, 6, 8}, set()),
        ({"method": "quantization_robust", "quantization_robust__variant": "kure"}, set(), set()),
        ({"objective": "rq"}, {4}, {4}),
        ({"objective": "rq", "relaxed_quantization__bits_activations": 8}, {4}, set()),
    ],
)
def test_the_settings_tell_which_widths_training_saw(
    tmp_path: Path, changed: dict[str, Any], weights: set[int], both: set[int]
) -> None:
    found = run(tmp_path / "run", **changed)
    assert (seen(found, False), seen(found, True)) == (weights, both)


def test_widths_are_read_most_bits_first_and_32_is_the_float_model(tmp_path: Path) -> None:
    found = run(tmp_path / "run", {"w2": 0.5, "w32": 0.95, "w16": 0.9, "w16a16": 0.8, "w4a8": 0.1})
    assert list(at_bits(found, False).items()) == [(16, 0.9), (2, 0.5)]
    assert at_bits(found, True) == {16: 0.8}
    assert of_float(found) == 0.95 and of_float(run(tmp_path / "other")) == 0.9
    assert rows(read_run(write(tmp_path / "none", results([0.5])))) == []


def test_one_run_has_a_chart_and_a_table(tmp_path: Path) -> None:
    page = Page(make_report([write(tmp_path / "run", document(MEASURED, objective="mqat"))]))
    assert "Accuracy by bits: fedavg" in [found["aria-label"] for found in page.all("svg")]
    assert f"Accuracy by bits, quantized after training.{MARKS} Dashed: the float model." in page.text
    assert page.tables["Bit-widths"] == [
        ["bits", "weights alone", "points lost", "weights and activations", "points lost", "seen in training"],
        ["float", "90.0 %", "–", "90.0 %", "–", ""],
        ["8", "90.0 %", "0.0", "89.0 %", "1.0", "weights alone"],
        ["4", "85.0 %", "5.0", "80.0 %", "10.0", "weights alone"],
        ["2", "40.0 %", "50.0", "20.0 %", "70.0", "weights alone"],
    ]
    assert "widths" in [found.get("id") for found in page.all("h2")] and '<a href="#widths">Bit-widths</a>' in page.source


def test_weights_alone_and_a_plain_objective_leave_columns_and_marks_out(tmp_path: Path) -> None:
    page = Page(make_report([write(tmp_path / "run", document({"w4": 0.8}))]))
    assert page.tables["Bit-widths"] == [
        ["bits", "weights alone", "points lost"],
        ["float", "90.0 %", "–"],
        ["4", "80.0 %", "10.0"],
    ]
    assert MARKS not in page.text
    bare = Page(make_report([write(tmp_path / "bare", results([0.5, 0.6]))]))
    assert "Bit-widths" not in bare.tables and "Accuracy by bits" not in bare.source


@pytest.mark.long
def test_methods_and_objectives_stand_side_by_side_over_seeds(tmp_path: Path) -> None:
    folders = []
    for seed, drop in enumerate((0.0, 0.04)):
        plain = {"w4": 0.8 - drop, "w4a4": 0.7}
        folders.append(write(tmp_path / f"p{seed}", document(plain, seed=seed)))
        arms: list[tuple[str, dict[str, Any]]] = [
            ("q2", {"quantization_robust__bits": 2}),
            ("q4", {}),
            ("m", {"objective": "mqat"}),
        ]
        for name, changed in arms:
            folders.append(
                write(tmp_path / f"{name}{seed}", document({"w4": 0.88 - drop}, seed=seed, **{"objective": "qat"} | changed))
            )
    page = Page(make_report(folders, tmp_path / "page.html"))
    labels = [found["aria-label"] for found in page.all("svg")]
    assert "Accuracy by bits, weights alone" in labels and "Accuracy by bits, weights and activations" in labels
    assert f"Accuracy by bits, weights alone. Shaded: lowest to highest over seeds.{MARKS}" in page.text
    table = page.tables["Weights alone"]
    spread = f"± {100 * statistics.stdev((0, 0.04)):.1f} %"
    assert table[0] == ["method, and what differs", "seed", "float", "4 bits"]
    assert [row[0] for row in table[1:]] == [
        "fedavg objective=plain",
        "fedavg objective=qat, quantization-robust.bits=2",
        "fedavg objective=qat, quantization-robust.bits=4",
        "fedavg objective=mqat",
    ]
    assert table[1][1:] == ["2 runs", "90.0 % ± 0.0 %", f"78.0 % {spread}"]
    assert page.tables["Weights and activations"][2][1:] == ["2 runs", "90.0 % ± 0.0 %", "–"]
    assert list(map(len, grouped([read_run(folder) for folder in folders]).values())) == [2, 2, 2, 2]


def marks(svg: str, style: int) -> list[tuple[float, float, bool]]:
    """Where a style's marks stand and whether they are hollow; the one of the legend, drawn last, is left out."""
    fill = rf"var\(--c{style}\)|var\(--page\)"
    stroke = rf"; stroke: var\(--c{style}\)"
    pattern = rf'<use href="#{ID_PREFIX}\d+" x="([\d.]+)" y="([\d.]+)" style="fill: ({fill}){stroke}'
    found = [(float(x), float(y), "page" in how) for x, y, how in re.findall(pattern, svg)]
    return found[:-1]


def test_marks_stand_at_their_bits_hollow_where_training_did_not_look() -> None:
    line = WidthLine("mqat", {2: 0.5, 4: 0.8, 8: 0.9}, 1, seen=frozenset({2, 8}), whole=0.9)
    svg = by_width([line], "accuracy by bits", marked=True)
    *drawn, hollow = marks(svg, 1)
    (x2, y2, _), (x4, y4, _), (x8, y8, _), (far, whole, _) = drawn
    assert (x8 - x4) == pytest.approx(2 * (x4 - x2), abs=0.01) and far > x8 and whole == y8
    assert (y2 - y4) == pytest.approx(3 * (y4 - y8), abs=0.01)
    assert hollow == (x4, y4, True) and not any(how for *_, how in drawn)
    texts = re.findall(r">([\w %]+)</text>", svg)
    assert [text for text in texts if text in ("2", "4", "8", "float", "bits")] == ["2", "4", "8", "float", "bits"]
    assert not re.search(r"#[0-9a-f]{6}|https?:", svg)


def test_a_level_stands_for_the_float_model_and_all_marks_are_filled_unless_asked() -> None:
    svg = by_width([WidthLine("in $ and _under_", {4: 0.8})], 'a "quoted" <text>', level=0.9)
    assert ">float model</text>" in svg and ">float</text>" not in svg and ">in $ and _under_</text>" in svg
    assert 'aria-label="a &quot;quoted&quot; &lt;text&gt;"' in svg
    assert not any(hollow for *_, hollow in marks(svg, 0))

"""Figures of WarmFed's studies in README and the documentation are those of the studies' own tables, `benchmarks/results`."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedwarm.core.forms import byte_text, second_text
from fedwarm.launch.study_file import read_study
from fedwarm.report.paired import standard_error
from fedwarm.settings.text import parse_overrides

ROOT = Path(__file__).parents[1]
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.csv"))
LORA, PROMPTS = "LoRA warm start, no rounds", "prompts alone, no rounds"
STARTS = {
    "public classifier": "FedAvg from the public classifier, local-epochs 10",
    "lora": "FedAvg from the LoRA warm start, local-epochs 10",
    "prompts": "FedAvg from prompts alone, local-epochs 10",
    "random weights": "FedAvg from random weights, local-epochs 10",
}
PERSONAL = ("warmfed_personal_50", "warmfed_personal_100", "warmfed_personal")  # by images a client
ENDED = {("frl", "FedAvg, liars"): 4}  # runs that ended by themselves, as the table says
Cells = dict[tuple[str, str], list[dict[str, str]]]


def rows_of(name: str) -> Cells:
    """The rows of a study by arm and round, one for each seed, in the order of the file."""
    found: Cells = {}
    for row in csv.DictReader((ROOT / "benchmarks" / "results" / f"{name}.csv").read_text().splitlines()):
        found.setdefault((row["arm"], row["round"]), []).append(row)
    return found


def spread(rows: list[dict[str, str]], what: str, digits: int) -> str:
    """Mean ± standard error in percent, as the tables write it."""
    values = [100 * float(row[what]) for row in rows if row[what]]
    return f"{statistics.fmean(values):.{digits}f} ± {standard_error(values):.{digits}f}" if values else "-"


def table(page: str, heading: str, first: str) -> Iterator[list[str]]:
    """Cells of a table's rows, without emphasis; the table after a heading whose first column has that title."""
    text = (ROOT / page).read_text()
    part = text[text.index(heading) :]
    lines = part[part.index(f"\n| {first} |") + 1 :].splitlines()
    for line in lines[2:]:
        if not line.startswith("|"):
            return
        yield [cell.strip().replace("**", "") for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_table_is_of_its_study(path: Path) -> None:
    """Arms and seeds of the study's file, each at every seed but where the run ended by itself."""
    named = [file for file in (ROOT / "benchmarks" / "studies").glob("*.toml") if path.stem.startswith(file.stem)]
    file = max(named, key=lambda file: len(file.stem))  # what follows is its form, e.g. images a client
    study = read_study(file, parse_overrides(["united.of='a=b'"]))
    found = rows_of(path.stem)
    assert {arm for arm, _ in found} == {arm.name for arm in study.arms}
    for (arm, _), rows in found.items():
        seeds, ended = [int(row["seed"]) for row in rows], ENDED.get((path.stem, arm), 0)
        assert seeds == [seed for seed in study.seeds if seed in seeds] and len(seeds) == len(study.seeds) - ended


@pytest.mark.parametrize(
    ("name", "heading", "first", "what"),
    [
        ("warmfed_costs", "### What a start is worth", "arm", ["global", "own"]),
        ("warmfed_words", "### Prompts that name each client's look", "images drawn from", ["global"]),
        ("warmfed_skew", "### Two classes of one look a client", "arm", ["global", "own"]),
        ("warmfed_skew_dirichlet", "### Dirichlet labels on top of looks", "arm", ["global", "own"]),
        ("warmfed_sources", "### Four sources of digits", "arm", ["global", "client:1", "own"]),
        ("warmfed_hollowed", "### With a hollowed foundation at clients", "adapters tuned with", ["global"]),
        ("warmfed_private", "### Adapters that are private", "adapters", ["global"]),
        ("warmfed_many", "### Many images of small adapters", "arm", ["global", "own"]),
        ("warmfed_amounts", "### How many images, steps and ranks", "one upload with", ["global", "own"]),
    ],
)
def test_results_have_the_rows_of_a_study(name: str, heading: str, first: str, what: list[str]) -> None:
    """In its order: accuracies, bytes up, and work; a few rows of references may be left out."""
    rows, shown = iter(rows_of(name).values()), [*table("benchmarks/RESULTS.md", heading, first)]
    assert len(rows_of(name)) - len(shown) <= 5
    for cells in shown:
        for row in rows:
            if cells[1 : 1 + len(what)] == [spread(row, each, 2) for each in what]:
                break
        else:
            pytest.fail(f"no row of the study, or not in its order: {cells}")
        if first == "arm":
            costs = byte_text(float(row[0]["bytes up a client"])), second_text(float(row[0]["seconds a client"]))
            assert (cells[-2], cells[-1]) == costs, cells


@pytest.mark.parametrize(
    ("page", "heading", "digits", "rounds"),
    [
        ("benchmarks/RESULTS.md", "### Where half of the data set is public", 2, ("1", "5", "last")),
        ("docs/results.md", "**Where half of the data set is public**", 1, ("1", "last")),
    ],
)
def test_results_have_gen_fedsd_where_half_is_public(page: str, heading: str, digits: int, rounds: tuple[str, ...]) -> None:
    """Both data sets; all arms in the study's order by their names, or some of them by what they are called to readers."""
    sets = [rows_of(f"gen_fedsd_public_{name}") for name in ("mnist", "fashion")]
    arms, shown = [*dict.fromkeys(arm for arm, _ in sets[0])], [*table(page, heading, "training")]
    found = {arm: [spread(rows[arm, n], "global", digits) for rows in sets for n in rounds] for arm in arms}
    if digits == 2:
        assert {cells[0]: cells[1:-1] for cells in shown} == found and [cells[0] for cells in shown] == arms
    else:
        assert len(shown) == 6 and all(cells[1:] in found.values() for cells in shown)


@pytest.mark.parametrize(
    ("name", "heading", "first", "measure", "rounds"),
    [
        ("scopes", "### A part of the network, trained and sent", "what is trained", "global", ("1", "5", "last")),
        ("ocfl", "### Groups whose labels are permuted", "arm", "own", ("5", "last")),
        ("ocfl_iid", "### Clients that are alike", "arm", "own", ("5", "last")),
        ("frl", "### Votes and means, with and without liars", "arm", "global", ("5", "last")),
    ],
)
def test_results_have_all_arms_of_a_study_by_rounds(
    name: str, heading: str, first: str, measure: str, rounds: tuple[str, ...]
) -> None:
    """Accuracies by rounds, the end's difference, bytes up and work."""
    rows = rows_of(name)
    shown = {cells[0]: cells[1:] for cells in table("benchmarks/RESULTS.md", heading, first)}
    assert [*shown] == [*dict.fromkeys(arm for arm, _ in rows)]
    for arm, cells in shown.items():
        *accuracies, told, up, work = cells
        last, base = rows[arm, "last"][0], rows[next(iter(shown)), "last"]
        if ended := ENDED.get((name, arm)):
            assert {*accuracies} == {f"ended at {ended} of {len(base)} seeds"}
            continue
        assert accuracies == [spread(rows[arm, n], measure, 2) for n in rounds]
        mean, low, high = (100 * float(last[f"{measure} {key}"] or 0) for key in ("difference", "low", "high"))
        assert told == ("baseline" if arm == next(iter(shown)) else f"{mean:+.1f} [{low:.1f}, {high:.1f}]")
        assert (up, work) == (byte_text(float(last["bytes up a client"])), second_text(float(last["seconds a client"])))


def test_results_have_the_personal_models_of_three_sizes() -> None:
    """All arms in the study's order: accuracy and difference with 50, with 100 and with all images, and bytes up."""
    sizes = [rows_of(name) for name in PERSONAL]
    shown = [*table("benchmarks/RESULTS.md", "### Personal models", "arm")]
    assert [cells[0] for cells in shown] == [arm for arm, _ in sizes[0]]
    for arm, *accuracies, _, up in shown:
        for accuracy, told, size in zip(accuracies[::2], accuracies[1::2], sizes, strict=True):
            rows = size[arm, "last"]
            assert accuracy == spread(rows, "own", 2)
            mean, low, high = (100 * float(rows[0][f"own {key}"]) for key in ("difference", "low", "high"))
            assert told == "baseline" or told.startswith(f"{mean:+.1f} [{low:.1f}, {high:.1f}]")
        assert up == byte_text(float(sizes[0][arm, "last"][0]["bytes up a client"]))


def test_the_results_page_s_personal_models_are_the_study_s() -> None:
    arms = [
        "LoRA start, never",
        "LoRA start, selection sample_better",
        "prompts start, never",
        "local only, 30 epochs",
        "public classifier, 30 epochs at home",
        "FedAvg from the public classifier, 5 rounds, then 20 epochs at home",
    ]
    for arm, cells in zip(arms, table("docs/results.md", "**Personal models.**", "trained at home from"), strict=True):
        assert cells[1:4] == [spread(rows_of(name)[arm, "last"], "own", 1) for name in PERSONAL], cells


def test_the_results_page_s_dirichlet_labels_are_the_study_s() -> None:
    runs = [
        ("WarmFed, one shot", "last"),
        ("FedAvg from the public classifier", "1"),
        ("FedAvg from the public classifier", "5"),
        ("FedAvg from WarmFed's model", "1"),
        ("FedAvg from WarmFed's model", "5"),
        ("FedAvg from random weights", "5"),
        ("FedAvg from random weights", "10"),
        ("WarmFed from prompts alone", "last"),
    ]
    rows = rows_of("warmfed_skew_dirichlet")
    for run, cells in zip(runs, table("docs/results.md", "**Dirichlet labels on top of looks**", "run"), strict=True):
        sent = float(rows[run][0]["bytes up a client"])
        assert cells[1:] == [spread(rows[run], "global", 1), byte_text(sent) if sent else "0"], cells


def kilobytes(rows: list[dict[str, str]]) -> str:
    return f"{float(rows[0]['bytes up a client']) / 1e3:.0f}"


def seconds(rows: list[dict[str, str]]) -> str:
    return f"{float(rows[0]['seconds a client']):.0f}"


def test_the_readme_s_table_of_warmfed_is_the_study_s() -> None:
    """But for the classifier that has done no round, which no arm measures."""
    rows = rows_of("warmfed_costs")
    starts = {"that classifier": "public classifier", "WarmFed's model": "lora", "random weights": "random weights"}
    seen = 0
    for label, rounds, accuracy, up, work in table("README.md", "## What a run looks like", "method"):
        if label.startswith("classifier of the public pictures"):
            continue
        alone = {"WarmFed, one shot": LORA, "WarmFed from prompts alone: nothing is sent": PROMPTS}
        arm = alone.get(label) or STARTS[starts[label.removeprefix("FedAvg from ")]]
        row = rows[arm, rounds if rounds != "0" else "last"]
        assert accuracy == spread(row, "global", 1) and (up, work) == (kilobytes(row), seconds(row)), (label, rounds)
        seen += 1
    assert seen == 7


def test_the_results_page_s_table_of_starts_is_the_study_s() -> None:
    rows, shown = rows_of("warmfed_costs"), [*table("docs/results.md", "## WarmFed", "start")]
    order = [("lora", LORA), ("prompts", PROMPTS), ("public classifier", None), ("random weights", None)]
    assert len(shown) == len(order)
    for cells, (start, alone) in zip(shown, order, strict=True):
        if alone:
            assert cells[1] == spread(rows[alone, "last"], "global", 1)
            assert cells[6].split(";")[0] == kilobytes(rows[alone, "last"])
        wanted = [spread(rows[STARTS[start], number], "global", 1) for number in ("1", "2", "5", "last")]
        assert cells[2:6] == wanted, cells

"""A study's arms in one picture: accuracy against bytes up and against work of a client, as a file that pages can show.

    fedwarm study benchmarks/studies/warmfed_costs.toml
    python benchmarks/study_picture.py runs/study-warmfed_costs/study.json docs/costs.png --leave-out "local only"

A point is an arm after a number of rounds, in the mean over seeds, with a bar of one standard error up and down; rounds of an
arm are joined by a line. Both axes are logarithmic; what costs nothing stands at their left end. Arms without a global model are
left out; `--leave-out NAME` leaves out others. The name's ending says the format: .svg, .png or .pdf.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from fedwarm.core.forms import byte_text, second_text
from fedwarm.report.plots import DASHES, MARKERS, plain

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#333333")  # Okabe and Ito's, told apart by all
INK, RULE = "#333333", "#dddddd"
TICKS = 6


@dataclass(frozen=True)
class Spot:
    """An arm after a number of rounds: mean accuracy and its standard error in [0, 1], bytes up and seconds of a client."""

    accuracy: float
    error: float
    up: float
    work: float


def arms_of(study: Mapping[str, Any], left_out: Sequence[str] = ()) -> dict[str, list[Spot]]:
    """The spots of each arm in the order of its rounds; arms without a global model are left out.

    Raises:
        SystemExit: there is no arm of a name that is to be left out, or none is left.
    """
    found: dict[str, list[Spot]] = {}
    names = {str(row["arm"]) for row in study["rows"]}
    if unknown := sorted({*left_out} - names):
        raise SystemExit(f"the study has no arm {unknown[0]!r}; it has: {', '.join(sorted(names))}")
    for row in study["rows"]:
        shares = [share for share in row["found"]["global"] if share is not None]
        if shares and row["arm"] not in left_out:
            error = statistics.stdev(shares) / len(shares) ** 0.5 if len(shares) > 1 else 0.0
            found.setdefault(row["arm"], []).append(Spot(statistics.fmean(shares), error, row["up"], row["work"]))
    if not found:
        raise SystemExit("no arm of the study has a global model to show; leave out fewer")
    return {name: sorted(spots, key=lambda spot: (spot.up, spot.work)) for name, spots in found.items()}


def picture(arms: Mapping[str, Sequence[Spot]], title: str = "") -> Figure:
    """Two axes side by side, and a legend below them."""
    rows = -(-len(arms) // 2)
    figure = Figure(figsize=(10, 4.4 + 0.24 * rows), facecolor="white", layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, cost, text, label in (
        (left, lambda spot: spot.up, byte_text, "bytes up, a client"),
        (right, lambda spot: spot.work, second_text, "work of a client"),
    ):
        _panel(axes, arms, cost, text)
        axes.set_xlabel(label, color=INK, fontsize=11)
    left.set_ylabel("global accuracy", color=INK, fontsize=11)
    left.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:g} %"))
    handles, names = left.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False, fontsize=10, labelcolor=INK)
    if title:
        figure.suptitle(plain(title), color=INK, fontsize=12)
    return figure


def _panel(axes: Axes, arms: Mapping[str, Sequence[Spot]], cost: Callable[[Spot], float], text: Callable[[float], str]) -> None:
    paid = [cost(spot) for spots in arms.values() for spot in spots]
    least, most = min([each for each in paid if each] or [1.0]), max(paid) or 1.0
    free = least / (most / least) ** 0.12 / 1.5  # where what costs nothing stands
    for index, (name, spots) in enumerate(arms.items()):
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[(index + index // len(COLOURS)) % len(MARKERS)]
        x, y = [cost(spot) or free for spot in spots], [spot.accuracy for spot in spots]
        axes.errorbar(
            x, y, [spot.error for spot in spots], fmt=marker + DASHES[index // len(COLOURS) % len(DASHES)], color=colour, ms=7,
            capsize=3, lw=1.5, elinewidth=1, label=plain(name), clip_on=False,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlim(free / 1.3 if 0 in paid else least / 1.4, most * 1.4)
    ticks = powers(least, most)
    axes.xaxis.set_major_locator(FixedLocator(([free] if 0 in paid else []) + ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: "0" if 0 in paid and x < least / 1.2 else short(text(x))))
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=INK, labelsize=10)


def powers(least: float, most: float) -> list[float]:
    """At most `TICKS` round numbers between two, a constant factor apart: of 1, 2, 5 where there is room, else powers of ten."""
    for steps in ((1, 2, 5), (1, 3), (1,)):
        found = [step * 10.0**power for power in range(-6, 16) for step in steps]
        if len(found := [each for each in found if least / 1.2 <= each <= most * 1.2]) <= TICKS:
            return found
    return found[:: -(-len(found) // TICKS)]


def short(text: str) -> str:
    """A number and its unit without zeros that say nothing: `0.10 s` as `0.1 s`."""
    number, _, unit = text.partition(" ")
    return f"{float(number):g} {unit}" if number.replace(".", "").isdigit() else text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="a study's study.json")
    parser.add_argument("out", type=Path, help="the picture, e.g. docs/costs.png")
    parser.add_argument(
        "--leave-out", action="append", default=[], metavar="ARM", help="an arm that is not shown; may be repeated"
    )
    given = parser.parse_args()
    study = json.loads(given.study.read_text())
    figure = picture(arms_of(study, given.leave_out), study["title"])
    matplotlib.rcParams["svg.hashsalt"] = "fedwarm"  # the same bytes of the same study
    figure.savefig(given.out, dpi=150, metadata={"Date": None} if given.out.suffix == ".svg" else None)
    print(given.out)


if __name__ == "__main__":
    main()

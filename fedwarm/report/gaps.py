"""Class gaps and what fills them: facts and charts of the report, and a page of its own for a plan or for work without a run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedwarm.record.gaps import Augment, Gap, read_augment
from fedwarm.record.reading import Json
from fedwarm.report.plots import COLOURS, INK, inline_svg, legible
from fedwarm.report.render import filled, write_page
from fedwarm.report.samples import Sample, grid

if TYPE_CHECKING:
    from fedwarm.augmentations.gen_fedsd.plan import Plan, Plans

MOST_ROWS, MOST_PANELS = 100, 20
MOST_NAMED, LONGEST_NAME = 12, 2
WIDE_INCHES, PANEL_INCHES = 9.6, 1.25
COSTS = ("made", "reused", "seconds", "bytes")


def augment_page(
    work: Plans | Sequence[Mapping[str, Any]],
    samples: Iterable[Sample],
    path: Path,
    *,
    classes: Sequence[str] = (),
    title: str = "Gaps and what fills them",
    text: str = "",
    note: str = "",
    planned: bool = False,
) -> Path:
    """Write one self-contained HTML page about the clients' gaps before and after, without a run, and return its path.

    Args:
        work: a plan; or by client what `results.json` has under `augment.per_client`, of which `real`, `synthetic`, `seconds`,
            `made`, `reused` and `bytes` may be missing, and `partition` where it is the place in the list.
        samples: pictures of some clients, real and synthetic ones (see `sections.augmentation.samples`); none are fine.
        path: the page.
        classes: their names; a plan has them.
        title, text: heading, and a line below it.
        note: stands where the pictures do, e.g. why there are none.
        planned: the costs are a forecast; those of a plan are.

    Raises:
        SettingError: the path is a folder or cannot be written.
        ValueError: the clients count different numbers of classes.
    """
    if isinstance(work, Sequence):
        entries = list(work)
    else:
        entries, classes, planned = [_forecast(plan) for plan in work.clients], work.classes, True
    augment = read_augment({"per_client": entries}) or Augment("", [])
    found = list(samples)
    pictures = grid(found, classes, "synthetic", note) if found or note else None
    facts = shown(augment, classes, pictures, planned)
    write_page(path.resolve(), filled("gaps.html.j2", title=title, text=text, gaps=facts))
    return path.resolve()


def _forecast(plan: Plan) -> Json:
    """A client's plan as an entry of `augment.per_client`."""
    made, facts = sum(plan.new), {"partition": plan.partition, "real": plan.real, "synthetic": plan.synthetic}
    return {**facts, "made": made, "reused": sum(plan.synthetic) - made, "seconds": plan.seconds, "bytes": plan.bytes}


def shown(augment: Augment, classes: Sequence[str], pictures: Json | None, planned: bool = False) -> Json:
    """What the template shows of an augmentation."""
    width = max((len(row) for gap in augment.clients for row in (gap.real, gap.synthetic) if row is not None), default=0)
    names = [classes[c] if c < len(classes) else str(c) for c in range(width)]
    rows = [_row(gap.client, gap, width) for gap in augment.clients[:MOST_ROWS]]
    peak = max((r + s for row in rows for r, s in ((r or 0, s or 0) for r, s in row["cells"])), default=0)
    whole = Gap(-1, augment.real or None, augment.synthetic or None)
    total = {**_row("all", whole, width), "sum": True, "distances": augment.distances}
    sums = {name: augment.total(name) for name in COSTS}
    costs = [_costs(gap) for gap in augment.clients[:MOST_ROWS]] + [{"client": "all", "sum": True, **sums}]
    return {
        "augment": augment,
        "classes": names,
        "figures": figures(augment, names),
        "rows": [*rows, total],
        "costs": costs if any(value is not None for value in sums.values()) else [],
        "peak": peak or 1,
        "hidden": len(augment.clients) - len(rows),
        "pictures": pictures,
        "planned": planned,
    }


def _row(client: int | str, gap: Gap, width: int) -> Json:
    """Pairs of real and synthetic images by class and in all; None where the client did not say."""
    sides = (gap.real, gap.synthetic)
    cells = [tuple(None if side is None else side[c] for side in sides) for c in range(width)]
    both = tuple(None if side is None else sum(side) for side in sides)
    return {"client": client, "cells": cells, "all": both, "distances": gap.distances, "sum": False}


def _costs(gap: Gap) -> Json:
    return {"client": gap.client, "sum": False, **{name: getattr(gap, name) for name in COSTS}}


def figures(augment: Augment, names: Sequence[str]) -> list[tuple[str, str]]:
    """The histograms of the first clients that told theirs, with a caption."""
    told = [gap for gap in augment.clients if gap.after is not None]
    if not any(sum(gap.after or []) for gap in told):
        return []
    more = len(told) - MOST_PANELS
    rest = f"; {more} more in the table" if more > 0 else ""
    caption = f"Images by class, real (plain) and synthetic (hatched), of each client to its own scale{rest}."
    return [(histograms(told[:MOST_PANELS], names, "Images by class of each client, real and synthetic"), caption)]


def histograms(clients: Sequence[Gap], names: Sequence[str], alt: str) -> str:
    """One small chart a client: stacked bars of its real and synthetic images by class, as SVG.

    Args:
        clients: their images by class; real and synthetic are known.
        names: class names; shown where they are few and short.
        alt: what the chart shows, for those who cannot see it.
    """
    across = 5 if len(names) <= 12 else 3 if len(names) <= 30 else 2
    across = min(across, max(2, len(clients)))
    down = math.ceil(len(clients) / across)
    figure = Figure(figsize=(WIDE_INCHES, 0.45 + PANEL_INCHES * down))
    figure.set_layout_engine("constrained", h_pad=0.06, w_pad=0.06)
    panels = figure.subplots(down, across, squeeze=False).flat
    for axes, gap in zip(panels, clients, strict=False):
        _panel(axes, gap, names)
    for axes in list(figure.axes)[len(clients) :]:
        axes.remove()
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", frameon=False, labelcolor=INK, fontsize=9, ncols=2)
    return inline_svg(figure, alt)


def _panel(axes: Axes, gap: Gap, names: Sequence[str]) -> None:
    """One client's bars, with its numbers above and its largest class at the side."""
    real, made = list(gap.real or []), list(gap.synthetic or [])
    x = range(len(real))
    axes.bar(x, real, 0.8, label="real", color=COLOURS[0])
    look: Json = {"color": COLOURS[1], "hatch": "///", "edgecolor": "#ffffff", "linewidth": 0, "alpha": 0.7}
    axes.bar(x, made, 0.8, bottom=real, label="synthetic", **look)
    axes.set_title(f"client {gap.client}: {sum(real):,} + {sum(made):,}", fontsize=9, color=INK, loc="left", pad=4)
    top = max((r + s for r, s in zip(real, made, strict=True)), default=0)
    axes.set_ylim(0, 1.05 * max(1, top))
    axes.set_xlim(-0.6, len(real) - 0.4)
    axes.set_yticks([top] if top else [])
    short = len(names) <= MOST_NAMED and all(len(name) <= LONGEST_NAME for name in names)
    axes.set_xticks(list(x) if short else [], [legible(name) for name in names] if short else [])
    axes.tick_params(axis="both", colors=INK, labelsize=8, length=0, pad=2)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(INK)

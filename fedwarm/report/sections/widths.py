"""The accuracy of quantized models against their bits: charts and tables of one run, and of several side by side.

`w4` is the final model with its weights rounded to 4 bits after training, `w4a4` with the inputs of its layers, too. A mark is
filled where training saw that width, as the settings tell it, and hollow where the model was never trained for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from fedwarm.objectives import Objective
from fedwarm.record.reading import Json, Run, mean
from fedwarm.relevance import Run as Relevant
from fedwarm.report.by_width import WidthLine, by_width
from fedwarm.report.sections import Figures, Measure, Section

FLOAT_BITS = 32
NAME = re.compile(r"w(\d+)(?:a\1)?")
KINDS = {False: "weights alone", True: "weights and activations"}
MARKS = " Hollow marks: widths that training did not see."


def at_bits(run: Run, activations: bool) -> dict[int, float]:
    """The accuracies of the quantized model by bits, most bits first."""
    found = [(match, share) for name, share in run.bit_widths.items() if (match := NAME.fullmatch(name))]
    kept = {int(match[1]): share for match, share in found if ("a" in match[0]) == activations}
    return {bits: kept[bits] for bits in sorted(kept, reverse=True) if bits != FLOAT_BITS}


def of_float(run: Run) -> float | None:
    """The accuracy of the model as it is."""
    return run.bit_widths.get(f"w{FLOAT_BITS}", run.accuracy)


def seen(run: Run, activations: bool) -> frozenset[int]:
    """The widths that training rounded weights to, or weights and the inputs of layers, as the run's objective has it."""
    relevant = Relevant(run.settings, run.method)
    objective = next((found for found in relevant.chosen if isinstance(found, Objective)), None)
    return frozenset() if objective is None else objective.seen(relevant.__getitem__, activations)


# One run


def figures(run: Run) -> list[tuple[str, str]]:
    """The chart of one run with its caption; nothing where no width was measured."""
    lines = [
        WidthLine(text, found, int(both), seen=seen(run, both)) for both, text in KINDS.items() if (found := at_bits(run, both))
    ]
    if not lines:
        return []
    whole = of_float(run)
    dashed = "" if whole is None else " Dashed: the float model."
    marked = any(line.seen for line in lines)
    svg = by_width(lines, f"Accuracy by bits: {run.title}", level=whole, marked=marked)
    return [(svg, f"Accuracy by bits, quantized after training.{MARKS * marked}{dashed}")]


def rows(run: Run) -> list[Json]:
    """One row a width, the float model first: accuracies, what they lost to it in points, and what training saw."""
    whole, kinds = of_float(run), {both: at_bits(run, both) for both in KINDS}
    if not any(kinds.values()):
        return []
    found: list[Json] = [{"bits": "float", "cells": [(whole, None), (whole if kinds[True] else None, None)], "seen": ""}]
    for bits in sorted({b for row in kinds.values() for b in row}, reverse=True):
        shares = [kinds[both].get(bits) for both in KINDS]
        cells = [(share, None if share is None or whole is None else whole - share) for share in shares]
        trained = [text for both, text in KINDS.items() if bits in seen(run, both)]
        found.append({"bits": bits, "cells": cells, "seen": trained[-1] if trained else ""})
    return found


# Several runs


def compared(groups: Mapping[str, Sequence[Run]]) -> list[tuple[str, str]]:
    """A chart for weights alone and one for weights and activations, a line a group: mean and range over its seeds."""
    rows = {both: [_line(label, i, runs, both) for i, (label, runs) in enumerate(groups.items())] for both in KINDS}
    marked = any(line.seen for lines in rows.values() for line in lines)
    found = []
    for both, text in KINDS.items():
        if lines := [line for line in rows[both] if line.accuracies]:
            title = f"Accuracy by bits, {text}"
            band = " Shaded: lowest to highest over seeds." if any(line.low for line in lines) else ""
            found.append((by_width(lines, title, marked=marked), f"{title}.{band}{MARKS * marked}"))
    return found


def _line(label: str, style: int, runs: Sequence[Run], activations: bool) -> WidthLine:
    """Mean and range over the group's runs by bits."""
    measured = [run for run in runs if at_bits(run, activations)]
    every: dict[int, list[float]] = {}
    for run in measured:
        for bits, share in at_bits(run, activations).items():
            every.setdefault(bits, []).append(share)
    means = {bits: sum(shares) / len(shares) for bits, shares in every.items()}
    low, high = ({b: f(s) for b, s in every.items()} if len(measured) > 1 else None for f in (min, max))
    text = f"{label} (mean of {len(measured)})" if len(measured) > 1 else label
    trained = frozenset[int]().union(*(seen(run, activations) for run in measured))
    return WidthLine(text, means, style, low, high, trained, mean(map(of_float, measured)))


def tables(runs: Sequence[Run]) -> list[tuple[str, list[Measure]]]:
    """Columns of the final models' accuracies, one for each width that a run measured, most bits first."""
    found = []
    for both, text in KINDS.items():
        widths = sorted({width for run in runs for width in at_bits(run, both)}, reverse=True)
        if widths:
            whole = Measure("float", "percent", lambda run: of_float(run) if run.bit_widths else None)
            found.append((text[0].upper() + text[1:], [whole, *(_at_width(width, both) for width in widths)]))
    return found


def _at_width(width: int, activations: bool) -> Measure:
    return Measure(f"{width} bits", "percent", lambda run: at_bits(run, activations).get(width))


class Widths(Section):
    """Accuracy of the final model at several bit-widths."""

    title, anchor, order = "Bit-widths", "widths", 30
    text = "The final models on all clients' test images, their numbers rounded to so many bits after training."
    template = (
        "{% from 'widths.html.j2' import width_table %}"
        '<p class="soft">The final model on all clients\' test images, its numbers rounded to so many bits after training.</p>\n'
        "{{ width_table(shown) }}"
    )

    def shown(self, run: Run) -> list[Json]:
        return rows(run)

    def figures(self, run: Run) -> Figures:
        return figures(run)

    def tables(self, runs: Sequence[Run]) -> list[tuple[str, list[Measure]]]:
        return tables(runs)

    def compared(self, groups: Mapping[str, Sequence[Run]]) -> Figures:
        return compared(groups)


COMPONENT = Widths()

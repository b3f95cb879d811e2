"""Area under the ROC curve, by counts of scores: scores within 0.1 of each other in log-odds count as equal.

So the area is near 0.5 where nearly all scores lie so close together, as those of a model that has hardly learned do, whatever
their order is.

The share of pairs of an example with a label and one without in which the former's score is higher; equal scores count half
(Hanley, McNeil, Radiology 143, 1982). Over a federation pairs of examples of different clients count, too, which no mean of
clients' areas knows.
"""

from __future__ import annotations

import numpy as np

from fedwarm.metrics import Metric, Numbers
from fedwarm.metrics._sums import BY_SCORE


def area(without: Numbers, having: Numbers) -> float | None:
    """Of counts by score of examples without and with the label; None where there are none of either."""
    pairs = without.sum() * having.sum()
    below = np.cumsum(without) - without
    return float((having * (below + without / 2)).sum() / pairs) if pairs else None


def value(total: Numbers, width: int) -> float | None:
    """Mean over the classes or labels that have examples of both kinds; of two classes they are the same."""
    found = [area(*counts) for counts in total.reshape(width, 2, -1)]
    known = [one for one in found if one is not None]
    return float(np.mean(known)) if known else None


COMPONENT = Metric(
    "AUROC", "area under the ROC curve, mean over classes or labels", BY_SCORE, value, share=True, main=("labels",)
)

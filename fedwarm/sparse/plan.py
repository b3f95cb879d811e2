"""A density that is planned: what a round may take away, and what the next one charges.

A penalty that is fixed does not give a density: how much a gate moves in a round hangs on steps, examples and the size of its
group, and once gates lie at their ends nothing moves them. So the density is a constraint, and the penalty its multiplier, as in
Gallego-Posada et al., "Controlled Sparsity via Constrained Optimization", NeurIPS 2022, arXiv 2208.04425 (for federations FLoPS,
arXiv 2512.23071). The rules below are worked out here: they are the server's alone, and the multiplier moves by factors, so that
no scale has to be known.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass

import numpy as np

from fedwarm.sparse.groups import Floats, Groups, Mask

GROWS, SHRINKS, HALVINGS, HALF = 1.2, 0.7, 12, 0.5
SLACK = 1.02  # what halving leaves above a density


@dataclass(frozen=True)
class Gates:
    """The server's gates.

    Attributes:
        theta: the probability of each group (G,).
        alive: the groups (G,) that are not gone for good.
        factor: what the most that is charged has grown by.
        settled: whether gates have ended: the groups that are left are on.
    """

    theta: Floats
    alive: Mask
    factor: float = 1.0
    settled: bool = False


@dataclass(frozen=True)
class Turn:
    """What a round may do to gates.

    Attributes:
        planned: the least density that it may end at; 0: any.
        density: the one at the end of all rounds; 0: none is planned.
        least: theta does not fall below it; of one where groups go, those below are gone for good.
        goes: whether groups go.
        ends: whether gates end with it.
        may_end: whether they end with it if the density is reached.
        whole: whether a group that falls under a plan falls to `least` at once.
    """

    planned: float
    density: float
    least: float
    goes: bool
    ends: bool
    may_end: bool
    whole: bool = False


def turned(groups: Groups, gates: Gates, theta: Floats, turn: Turn) -> Gates:
    """The gates after a round whose clients would have theta (G,)."""
    factor, alive = gates.factor, gates.alive
    if turn.density:
        factor = multiplier(factor, reached(groups, theta), turn.planned)
        theta = felled(groups, gates.theta, theta, turn) if turn.whole else held(groups, gates.theta, theta, turn.planned)
    if turn.goes:
        alive = groups.closed(alive & (theta >= turn.least))
        theta = theta * alive
    else:
        theta = np.maximum(theta, turn.least)
    ends = turn.ends
    if turn.may_end and not ends:
        left = groups.density(on(groups, theta)) if turn.whole else reached(groups, theta)
        ends = left <= turn.density * SLACK
    if not ends:
        return Gates(theta, alive, factor)
    alive = likeliest(groups, theta, turn.density) if turn.density else on(groups, theta)
    return Gates(alive.astype(np.float64), alive, factor, settled=True)


def on(groups: Groups, theta: Floats) -> Mask:
    """The groups (G,) whose probability is at least 1/2."""
    return groups.closed(theta >= HALF)


def reached(groups: Groups, theta: Floats) -> float:
    """The density of a model with these probabilities (G,), of which units are on from 1/2: in expectation, and at least that."""
    return max(groups.density(theta), groups.density(on(groups, theta)))


def held(groups: Groups, before: Floats, after: Floats, least: float) -> Floats:
    """The probabilities (G,) after a round, of which only so many fall that the density is at least `least`.

    Those that clients want least fall as they would; others keep what they had, and those in between fall by a share. What rose
    stays. Where even what rose alone is below it, nothing falls.
    """
    if groups.density(after) >= least:
        return after
    levels = np.unique(after[after < before])

    def fallen(count: int, share: float) -> Floats:
        """With the lowest `count` levels fallen, and the next by a share."""
        fell, edge = after < before, levels[count]
        part = np.where(after == edge, before + share * (after - before), before)
        return np.where(fell & (after >= edge), part, after)

    too_many = bisect_right(range(len(levels)), -least, key=lambda count: -groups.density(fallen(count, 0.0)))
    low = max(0, too_many - 1)
    most, over = 0.0, 1.0
    for _ in range(HALVINGS):
        share = (most + over) / 2
        most, over = (share, over) if groups.density(fallen(low, share)) >= least else (most, share)
    return fallen(low, most)


def felled(groups: Groups, before: Floats, after: Floats, turn: Turn) -> Floats:
    """The probabilities (G,) after a round in which those groups that clients want least fall to the least there is, one by one.

    So many that the planned density is reached, of those that fell at all; the others keep what they had. What was off may rise.
    """
    order = np.argsort(after, kind="stable")
    order = order[(after < before)[order]]

    def fallen(count: int) -> Floats:
        theta = np.where(before >= HALF, before, np.maximum(before, after))
        theta[order[:count]] = 0.0 if turn.goes else turn.least
        return theta

    return fallen(bisect_left(range(len(order)), -turn.planned, key=lambda n: -groups.density(on(groups, fallen(n)))))


def likeliest(groups: Groups, theta: Floats, most: float) -> Mask:
    """The groups (G,) from the least probability on that leaves a density of at most `most`; from 1/2 where none does."""
    edges = np.unique(theta[theta > 0])
    first = bisect_left(edges, -most, key=lambda edge: -groups.density(groups.closed(theta >= edge)))
    return groups.closed(theta >= edges[first]) if first < len(edges) else on(groups, theta)


def edge(groups: Groups, worth: Floats, alive: Mask, planned: float) -> float:
    """The least of the prices that groups are worth (G,) at which a density of at most `planned` is left; the largest if none."""
    prices = np.unique(worth[alive])
    first = bisect_left(prices, -planned, key=lambda price: -groups.density(groups.closed(alive & (worth >= price))))
    return float(prices[min(first, len(prices) - 1)]) if len(prices) else 0.0


def multiplier(now: float, density: float, planned: float) -> float:
    """What a round is charged at most after one that would have ended at a density, had nothing been taken back."""
    return now * (GROWS if density > planned else SHRINKS)

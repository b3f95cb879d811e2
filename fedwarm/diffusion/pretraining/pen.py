"""Handwritten digits by procedure: a pen that follows a digit's skeleton, each time a little differently. No data set is read.

A digit has some ways of writing it, each of them strokes: a stroke is a list of control points in the unit square (y down), and
is curved (a Catmull-Rom spline through them) or angular (straight from each to the next). To write, a way is chosen, its control
points are moved at random, the whole is stretched and slanted, and a round pen of a random width, which presses less where a
stroke ends, goes along it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from fedwarm.diffusion.pretraining.glyphs import CANVAS

Point = tuple[float, float]
Stroke = tuple[bool, tuple[Point, ...]]  # curved or not, through which points
SAMPLES = 5  # of a curve between two of its points
HEIGHT = 44  # of a digit on the canvas, in its pixels, before it is bent


def _curve(*points: Point) -> Stroke:
    return True, points


def _lines(*points: Point) -> Stroke:
    return False, points


WAYS: tuple[tuple[tuple[Stroke, ...], ...], ...] = (
    (  # 0
        (_curve((0.55, 0), (0.15, 0.15), (0, 0.5), (0.15, 0.86), (0.5, 1), (0.86, 0.86), (1, 0.5), (0.85, 0.14), (0.5, 0)),),
        (_curve((0.75, 0.06), (0.3, 0.08), (0.02, 0.5), (0.25, 0.95), (0.7, 0.95), (0.98, 0.5), (0.72, 0.04), (0.45, 0.1)),),
    ),
    (  # 1
        (_lines((0.5, 0), (0.5, 1)),),
        (_lines((0.25, 0.24), (0.55, 0), (0.52, 1)),),
        (_lines((0.25, 0.22), (0.52, 0), (0.52, 1)), _lines((0.2, 1), (0.82, 1))),
        (_curve((0.58, 0), (0.5, 0.5), (0.45, 1)),),
    ),
    (  # 2
        (_curve((0.05, 0.27), (0.22, 0.03), (0.65, 0), (0.9, 0.22), (0.72, 0.52), (0.36, 0.8), (0.03, 1)),
         _lines((0.03, 1), (0.98, 0.98))),
        (_curve((0.05, 0.22), (0.35, 0), (0.85, 0.1), (0.84, 0.4), (0.45, 0.76), (0.1, 0.98), (0.02, 0.85), (0.24, 0.76),
                (0.55, 0.92), (0.98, 0.95)),),
        (_curve((0.1, 0.15), (0.5, 0), (0.88, 0.2), (0.7, 0.55), (0.05, 1), (0.5, 0.96), (0.97, 1)),),
    ),
    (  # 3
        (_curve((0.08, 0.14), (0.42, 0), (0.85, 0.15), (0.74, 0.4), (0.36, 0.47)),
         _curve((0.36, 0.47), (0.82, 0.56), (0.93, 0.8), (0.55, 1), (0.04, 0.9))),
        (_lines((0.06, 0.03), (0.9, 0.02), (0.42, 0.4)), _curve((0.42, 0.4), (0.88, 0.52), (0.92, 0.82), (0.5, 1), (0.04, 0.92))),
        (_curve((0.1, 0.05), (0.7, 0.05), (0.8, 0.28), (0.45, 0.46), (0.85, 0.62), (0.8, 0.92), (0.1, 0.98)),),
    ),
    (  # 4
        (_lines((0.2, 0), (0.05, 0.55), (0.95, 0.55)), _lines((0.72, 0.12), (0.68, 1))),
        (_lines((0.62, 0), (0.02, 0.66), (0.98, 0.66)), _lines((0.64, 0), (0.64, 1))),
        (_curve((0.15, 0), (0.08, 0.42), (0.4, 0.52), (0.85, 0.42)), _lines((0.88, 0.02), (0.8, 1))),
        (_curve((0.7, 1), (0.72, 0.4), (0.75, 0.02), (0.3, 0.38), (0.05, 0.62), (0.5, 0.64), (0.98, 0.6)),),
    ),
    (  # 5
        (_lines((0.92, 0.01), (0.2, 0.02), (0.13, 0.45)),
         _curve((0.13, 0.45), (0.5, 0.35), (0.9, 0.55), (0.84, 0.9), (0.42, 1), (0.03, 0.9))),
        (_curve((0.92, 0.04), (0.4, 0.04), (0.16, 0.36), (0.55, 0.46), (0.9, 0.7), (0.62, 0.98), (0.05, 0.92)),),
        (_lines((0.22, 0.03), (0.14, 0.45)), _curve((0.14, 0.45), (0.55, 0.38), (0.9, 0.66), (0.6, 0.98), (0.05, 0.95)),
         _lines((0.22, 0.03), (0.95, 0.02))),
    ),
    (  # 6
        (_curve((0.75, 0), (0.32, 0.24), (0.05, 0.65), (0.24, 0.97), (0.7, 0.98), (0.92, 0.74), (0.62, 0.52), (0.2, 0.62),
                (0.08, 0.76)),),
        (_curve((0.4, 0), (0.12, 0.45), (0.1, 0.85), (0.45, 1), (0.85, 0.84), (0.75, 0.56), (0.35, 0.56), (0.12, 0.8)),),
    ),
    (  # 7
        (_lines((0.03, 0.03), (0.95, 0.03), (0.35, 1)),),
        (_lines((0.05, 0.2), (0.06, 0.03), (0.95, 0.04), (0.42, 1)),),
        (_lines((0.03, 0.03), (0.95, 0.03), (0.4, 1)), _lines((0.26, 0.5), (0.84, 0.48))),
        (_lines((0.03, 0.06), (0.95, 0.04)), _curve((0.95, 0.04), (0.62, 0.42), (0.45, 1))),
    ),
    (  # 8
        (_curve((0.85, 0.14), (0.5, 0), (0.16, 0.18), (0.45, 0.46), (0.88, 0.72), (0.5, 1), (0.1, 0.76), (0.5, 0.47), (0.82, 0.2),
                (0.72, 0.04)),),
        (_curve((0.5, 0), (0.16, 0.22), (0.5, 0.46), (0.84, 0.22), (0.5, 0)),
         _curve((0.5, 0.46), (0.08, 0.74), (0.5, 1), (0.92, 0.74), (0.5, 0.46))),
    ),
    (  # 9
        (_curve((0.84, 0.2), (0.5, 0), (0.12, 0.2), (0.3, 0.49), (0.72, 0.42), (0.86, 0.14)),
         _curve((0.86, 0.14), (0.84, 0.6), (0.76, 1))),
        (_curve((0.82, 0.16), (0.45, 0.01), (0.1, 0.26), (0.4, 0.5), (0.82, 0.3)),
         _curve((0.84, 0.12), (0.86, 0.62), (0.62, 0.96), (0.2, 0.95))),
        (_curve((0.86, 0.1), (0.4, 0.02), (0.14, 0.3), (0.5, 0.48), (0.85, 0.16), (0.8, 0.55), (0.6, 1)),),
    ),
)  # fmt: skip


@lru_cache(maxsize=1)
def _nib() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """All ways of all digits, padded to the longest.

    Returns:
        control points (ways, c, 2); what each point of the path takes of them (ways, s, c); whether the path goes on from each
        to the next (ways, s - 1); how near each is to a stroke's end, 0 to 1 (ways, s); the first way of each digit (11,).
    """
    flat = [way for ways in WAYS for way in ways]
    most = max(sum(len(points) for _, points in way) for way in flat)
    parts = [_way(way, most) for way in flat]
    longest = max(len(weights) for _, weights, _, _ in parts)
    points = torch.stack([points for points, *_ in parts])
    weights = torch.stack([F.pad(weights, (0, 0, 0, longest - len(weights))) for _, weights, _, _ in parts])
    joined = torch.stack([F.pad(joined, (0, longest - 1 - len(joined))) for _, _, joined, _ in parts])
    ends = torch.stack([F.pad(ends, (0, longest - len(ends))) for *_, ends in parts])
    return points, weights, joined, ends, torch.tensor([0, *(len(ways) for ways in WAYS)]).cumsum(0)


def _way(strokes: Sequence[Stroke], most: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    points, rows, joined, ends, first = torch.zeros(most, 2), [], [], [], 0
    for curved, through in strokes:
        count = len(through)
        points[first : first + count] = torch.tensor(through)
        path = _spline(count) if curved else torch.eye(count)
        rows.append(F.pad(path, (first, most - first - count)))
        along = torch.linspace(-1, 1, len(path)).abs()
        ends.append(((along - 0.7) / 0.3).clamp(0, 1))
        joined += [torch.ones(len(path) - 1), torch.zeros(1)]
        first += count
    return points, torch.cat(rows), torch.cat(joined)[:-1], torch.cat(ends)


def _spline(count: int) -> Tensor:
    """What each point of a curve takes of its control points: (SAMPLES (count - 1) + 1, count); Catmull and Rom, 1974."""
    knots = torch.eye(count)
    padded = torch.cat([2 * knots[:1] - knots[1:2], knots, 2 * knots[-1:] - knots[-2:-1]])
    t = torch.arange(SAMPLES)[:, None] / SAMPLES
    rows = []
    for i in range(count - 1):
        a, b, c, d = (padded[i + k][None] for k in range(4))
        rows.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3))
    return torch.cat([*rows, knots[-1:]])


def pen_masks(hands: int, generator: torch.Generator) -> Tensor:
    """So many times ten digits, filling the canvas as those of fonts do: (hands, 10, 64, 64) in [0, 1], of half precision."""
    rows = [written(torch.arange(10), generator).half() for _ in range(hands)]
    return torch.stack(rows)


def written(digits: Tensor, generator: torch.Generator) -> Tensor:
    """Write digits (n,): how much of each pixel the pen covers, (n, 64, 64) in [0, 1]."""
    n, (points, weights, joined, ends, firsts) = len(digits), _nib()
    draw = torch.rand(5, n, generator=generator)
    ways = firsts[digits] + (draw[0] * (firsts[digits + 1] - firsts[digits])).long()
    moved = points[ways] + (0.015 + 0.04 * draw[1])[:, None, None] * torch.randn(n, *points.shape[1:], generator=generator)
    path = weights[ways] @ (moved - 0.5)
    wide = 0.45 + 0.45 * draw[2]
    path = torch.stack([path[..., 0] * wide[:, None] - (draw[3] * 0.7 - 0.3)[:, None] * path[..., 1], path[..., 1]], 2) * HEIGHT
    width = 2.5 + 4.5 * draw[4]
    thin = 0.6 * torch.rand(n, 1, generator=generator)
    radius = width[:, None] / 2 * (1 - thin * ends[ways])
    return _covered(path + CANVAS / 2, radius, joined[ways])


def _covered(path: Tensor, radius: Tensor, joined: Tensor) -> Tensor:
    """Pixels within the radius (n, s) of a path (n, s, 2), with soft edges: (n, 64, 64)."""
    side = torch.arange(CANVAS) + 0.5
    pixels = torch.stack(torch.meshgrid(side, side, indexing="xy"), 2).view(1, -1, 2)
    cover = torch.zeros(len(path), CANVAS * CANVAS)
    for i in range(path.shape[1] - 1):
        begin, step = path[:, i, None], (path[:, i + 1] - path[:, i])[:, None]
        at = (((pixels - begin) * step).sum(2) / (step * step).sum(2).clamp(min=1e-6)).clamp(0, 1)
        distance = (pixels - begin - at[..., None] * step).norm(dim=2)
        wide = torch.lerp(radius[:, i, None], radius[:, i + 1, None], at)
        cover = torch.maximum(cover, (wide - distance + 0.5).clamp(0, 1) * joined[:, i, None])
    return cover.view(-1, CANVAS, CANVAS)

"""The chain rule, the bound and its extremes on discrete laws, exactly."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedwarm.tasks.contrast.bound import Sums, alignment, bound, uniformity
from fedwarm.tasks.contrast.losses import infonce, nt_xent

Law = NDArray[np.float64]


def laws(seed: int, axes: int, count: int) -> list[Law]:
    """Laws p(s, z1, z2[, y]) of 2 to 4 values an axis; of every third the views are independent given the rest."""
    draws, found = np.random.default_rng(seed), []
    for number in range(count):
        sizes = draws.integers(2, 5, axes)
        law = draws.dirichlet(np.full(int(np.prod(sizes)), draws.choice([0.1, 1.0]))).reshape(sizes)
        if number % 3 == 0:
            rest = law.sum((1, 2), keepdims=True)
            law = law.sum(2, keepdims=True) * law.sum(1, keepdims=True) / np.where(rest > 0, rest, 1)
        found.append(law / law.sum())
    return found


def entropy(law: Law, *axes: int) -> float:
    """H of some axes together."""
    chances = law.sum(tuple(a for a in range(law.ndim) if a not in axes)).ravel()
    return -math.fsum(p * math.log(p) for p in chances if p > 0)


def information(law: Law, left: int, right: int, *given: int) -> float:
    """I(left; right | given)."""
    known = entropy(law, *given) if given else 0.0
    return entropy(law, left, *given) + entropy(law, right, *given) - entropy(law, left, right, *given) - known


def bounded(law: Law, critic: Law, by_first: Law, by_second: Law) -> float:
    """Our bound of a law: `critic` f(z1, z2) over all z2 as candidates by their chances, r(s | z1) and r(s | z2) as they are."""
    shares = law.sum((1, 2))
    within, first, second = [], [], []
    for s, share in enumerate(shares):
        inside = law[s] / share if share > 0 else law[s]
        mean = (np.exp(critic) * inside.sum(0)).sum(1, keepdims=True)
        within.append(float((inside * (critic - np.log(mean))).sum()))
        first.append(float((inside.sum(1) * np.log(by_first[:, s])).sum()))
        second.append(float((inside.sum(0) * np.log(by_second[:, s])).sum()))
    return bound(shares.tolist(), within, first, second).total


SLACK = -1e-12


def test_the_chain_rule_and_the_bound_on_300_laws() -> None:
    draws = np.random.default_rng(1)
    for law in laws(0, 3, 300):
        s, a, b = law.shape
        assert information(law, 1, 2) == pytest.approx(
            information(law, 1, 2, 0) + information(law, 1, 0) - information(law, 1, 0, 2), abs=1e-12
        )
        found = bounded(law, draws.normal(size=(a, b)), draws.dirichlet(np.ones(s), a), draws.dirichlet(np.ones(s), b))
        assert information(law, 1, 2) - found >= SLACK


def test_with_the_best_heads_the_bound_lacks_what_the_clients_add_to_both_views() -> None:
    """I - bound = I(z1; s | z2) turned into H(s | z2): what remains is H(s | z1, z2)."""
    for law in laws(2, 3, 50):
        law = law + 1e-6
        law /= law.sum()
        by_first, by_second = (np.moveaxis(law.sum(3 - k), 0, 1) for k in (1, 2))
        inside = information(law, 1, 2, 0)
        shares = law.sum((1, 2))
        rows = [by / by.sum(1, keepdims=True) for by in (by_first, by_second)]
        first = [float((law[s].sum(1) * np.log(rows[0][:, s])).sum() / shares[s]) for s in range(len(shares))]
        second = [float((law[s].sum(0) * np.log(rows[1][:, s])).sum() / shares[s]) for s in range(len(shares))]
        found = bound(shares.tolist(), [inside] * len(shares), first, second).total
        rest = entropy(law, 0, 1, 2) - entropy(law, 1, 2)
        assert information(law, 1, 2) - found == pytest.approx(rest, abs=1e-9)


@pytest.mark.parametrize("clients", [2, 5, 20])
def test_the_extremes(clients: int) -> None:
    """Views that are the client: ln S, and tight. Views that do not know the client: what is within, less ln S."""
    equal, sure, blind = [1 / clients] * clients, [0.0] * clients, [-math.log(clients)] * clients
    assert bound(equal, sure, sure, sure).total == pytest.approx(math.log(clients), abs=1e-12)
    assert bound(equal, [0.7] * clients, blind, blind).total == pytest.approx(0.7 - math.log(clients), abs=1e-12)


def test_the_same_inside_a_label_on_100_laws() -> None:
    for law in laws(3, 4, 100):
        inside = information(law, 1, 2, 3, 0) + information(law, 1, 0, 3) - information(law, 1, 0, 2, 3)
        assert information(law, 1, 2, 3) == pytest.approx(inside, abs=1e-12)
        outside = information(law, 1, 3) + information(law, 1, 2, 3) - information(law, 1, 3, 2)
        assert information(law, 1, 2) == pytest.approx(outside, abs=1e-12)


def test_candidates_that_come_in_pairs_tell_a_little_more_than_there_is() -> None:
    """Six images of two kinds, all 64 draws: one direction stays below ln 2, both views of the others pass it by .004 nats."""
    found = {}
    for loss in (infonce, nt_xent):
        sums = Sums()
        for kinds in product(range(2), repeat=6):
            vectors = torch.eye(2, dtype=torch.float64)[list(kinds)].repeat(2, 1)
            sums.contrasted(loss(vectors, torch.zeros(6, dtype=torch.int64), 1e-3))
        found[loss] = sums.means()["within"]
    assert found[infonce] < math.log(2) < found[nt_xent] < math.log(2) + 0.004
    assert found[nt_xent] - math.log(11 / 6) < found[infonce], "counted as images, they are never more than one direction says"


def test_sums_are_means_over_images_in_whatever_batches() -> None:
    draws = torch.Generator().manual_seed(0)
    logits = torch.randn(12, 3, generator=draws, dtype=torch.float64)
    first, second = logits.chunk(2)
    whole, parts = Sums(), Sums()
    whole.verified(logits, 1)
    for rows in ([0, 1], [2, 3, 4, 5]):
        parts.verified(torch.cat([first[rows], second[rows]]), 1)
    assert parts.means() == pytest.approx(whole.means())
    assert whole.means()["first"] == pytest.approx(float(first.log_softmax(1)[:, 1].mean()))
    assert whole.means()["correct-client"] == int((first.argmax(1) == 1).sum())
    equal = Sums()
    equal.contrasted(nt_xent(torch.ones(8, 2), torch.zeros(4, dtype=torch.int64), 0.5))
    assert equal.means()["within"] == pytest.approx(0.0, abs=1e-6)


def test_alignment_and_uniformity() -> None:
    points = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    assert alignment(points, points.flip(0)) == pytest.approx(2.0)
    assert uniformity(points) == pytest.approx(-4.0, abs=1e-6) and uniformity(points[:1]) == 0.0

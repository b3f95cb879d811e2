"""The noise of a histogram: its law, and that it is drawn in whole numbers and anew for each count."""

from __future__ import annotations

from math import exp, sqrt

import numpy as np
import pytest
from scipy.stats import chisquare

from fedwarm.privacy.geometric import noisy_histogram, two_sided_geometric


@pytest.mark.parametrize("epsilon", [0.3, 1.0, 2.5])
def test_the_histograms_noise_has_the_law_that_covers_one_example(epsilon: float) -> None:
    source, n = np.random.default_rng(round(10 * epsilon)).bytes, 6000
    drawn = np.array([two_sided_geometric(epsilon, source) for _ in range(n)])
    ratio, reach = exp(-epsilon), int(3 / epsilon) + 1
    law = {z: (1 - ratio) / (1 + ratio) * ratio ** abs(z) for z in range(-reach, reach + 1)}
    tail = 1 - sum(law.values())
    seen = [int((drawn == z).sum()) for z in law] + [int((abs(drawn) > reach).sum())]
    assert chisquare(seen, [n * p for p in (*law.values(), tail)]).pvalue > 1e-3


def test_noise_is_independent_whole_and_by_setting() -> None:
    source = np.random.default_rng(0).bytes
    assert noisy_histogram([5, 0, 3], 0.0) == [5, 0, 3]
    told = noisy_histogram([10] * 400, 0.5, source)
    assert {type(n) for n in told} == {int} and len(set(told)) > 10
    assert np.mean(told) == pytest.approx(10, abs=5 * sqrt(2 * exp(-0.5) / (1 - exp(-0.5)) ** 2 / 400))
    assert noisy_histogram([1, 2], 1e6, source) == [1, 2]
    assert len(noisy_histogram([0], 1e-3)) == 1

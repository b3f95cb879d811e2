"""Private randomness: from the operating system, in the open interval, of the laws it is named after."""

from __future__ import annotations

import numpy as np
from scipy import stats

from fedwarm.privacy.randomness import gumbels, integers, keyed, normals, uniforms

SOURCE = np.random.default_rng(0).bytes


def test_uniforms_never_touch_the_ends() -> None:
    low, high = uniforms(1, lambda n: bytes(n))[0], uniforms(1, lambda n: b"\xff" * n)[0]
    assert 0 < low == 2.0**-53 and high == 1 - 2.0**-53
    assert np.isfinite(gumbels(1, lambda n: b"\xff" * n)).all() and np.isfinite(gumbels(1, lambda n: bytes(n))).all()
    assert stats.kstest(uniforms(50_000, SOURCE), "uniform").pvalue > 1e-3


def test_laws() -> None:
    assert stats.kstest(gumbels(50_000, SOURCE), "gumbel_r").pvalue > 1e-3
    assert stats.kstest(normals(50_000, SOURCE), "norm").pvalue > 1e-3
    for bits in (1, 5, 16):
        drawn = integers(60_000, bits, SOURCE)
        counts = np.bincount(drawn >> max(0, bits - 5), minlength=2 ** min(bits, 5))
        assert drawn.dtype == np.uint16 and stats.chisquare(counts).pvalue > 1e-3


def test_keyed_bytes_repeat_by_key_and_are_fresh_with_every_call() -> None:
    first, again, other = keyed(b"a"), keyed(b"a"), keyed(b"b")
    drawn = [first(16), first(16), first(40)]
    assert drawn == [again(16), again(16), again(40)] and drawn[0] != drawn[1] and other(16) != drawn[0]
    assert [len(d) for d in drawn] == [16, 16, 40]
    assert abs(float(uniforms(20_000, first).mean()) - 0.5) < 4 * 0.2887 / 20_000**0.5


def test_the_operating_system_never_repeats() -> None:
    assert not np.array_equal(uniforms(4), uniforms(4))
    assert not np.array_equal(normals(4), normals(4))

"""Events and their curves: the worst split of the energy, replacement, and libraries that know the Gaussian."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedwarm.privacy.events import Gaussian, RandomCoding, Sampled, curves, dp_sgd_step, nothing
from fedwarm.privacy.random_coding import absent_to_present
from fedwarm.settings.fields import SettingError

QUICK = settings(max_examples=30)


def equal(bits: int, cap: float, blocks: int, energy: float) -> RandomCoding:
    return RandomCoding(bits, energy, ((cap, blocks),))


def test_the_worst_split_fills_the_largest_caps() -> None:
    assert equal(7, 1.0, 10, 3.5).worst() == [(1.0, 3), (0.5, 1)]
    assert equal(7, 1.0, 2, 3.5).worst() == [(1.0, 2)]
    assert RandomCoding(7, 3.0, ((0.5, 4), (2.0, 1), (1.0, 0))).worst()[0] == (2.0, 1)
    assert sum(n * x for x, n in RandomCoding(7, 3.0, ((0.5, 4), (2.0, 1))).worst()) == 3.0


@QUICK
@given(st.lists(st.floats(0.05, 2.0), min_size=1, max_size=6), st.floats(0.1, 4.0), st.integers(0, 10**6))
def test_no_split_costs_more_than_the_worst(caps: list[float], energy: float, seed: int) -> None:
    event = RandomCoding.of(5, energy, np.array(caps))
    split = np.random.default_rng(seed).dirichlet(np.ones(len(caps))) * energy
    split = np.minimum(split, caps)
    cost = sum((absent_to_present(5, float(x), 24) for x in split), np.zeros(23))
    assert (cost <= curves(event, top=24).absent * (1 + 1e-9) + 1e-12).all()


def test_many_caps_are_rounded_up_to_few() -> None:
    caps = np.random.default_rng(0).uniform(0.2, 1.0, 300)
    event = RandomCoding.of(6, 20.0, caps)
    assert len(event.caps) <= 16 and sum(n for _, n in event.caps) == 300
    rounded = np.sort(np.repeat([c for c, _ in event.caps], [n for _, n in event.caps]))
    assert (rounded >= np.sort(caps) * (1 - 1e-12)).all() and rounded.max() == caps.max()
    exact = RandomCoding(6, 20.0, tuple((float(c), 1) for c in caps))
    ratio = curves(event, top=16).absent / curves(exact, top=16).absent
    assert (ratio >= 1 - 1e-9).all() and ratio.max() < 1.05


def test_blocks_add_up() -> None:
    one, four = curves(equal(7, 0.5, 1, 0.5)), curves(equal(7, 0.5, 4, 2.0))
    np.testing.assert_allclose(four.absent, 4 * one.absent, rtol=1e-12)
    np.testing.assert_allclose(four.present, 4 * one.present, rtol=1e-12)


@QUICK
@given(st.integers(1, 12), st.floats(0.01, 10.0), st.integers(1, 30))
def test_monotone_in_energy_and_bits(bits: int, energy: float, blocks: int) -> None:
    cap = energy / blocks * 1.3
    small = curves(equal(bits, cap, blocks, energy), top=32)
    for larger in (equal(bits, cap * 1.1, blocks, energy * 1.1), equal(bits, cap * 1.5, blocks, energy)):
        assert (curves(larger, top=32).absent >= small.absent * (1 - 1e-9)).all()
        assert (curves(larger, top=32).present >= small.present * (1 - 1e-9)).all()
    assert (curves(equal(bits + 1, cap, blocks, energy), top=32).present >= small.present).all()


def test_replacement() -> None:
    """K = 128, c = .5, alpha = 4: bound 2.032, above the simulated 1.947 of two opposite updates."""
    both = curves(equal(7, 0.25, 1, 0.25), "replacement")
    assert both.absent[2] == pytest.approx(2.032, abs=5e-4) and np.array_equal(both.absent, both.present)
    draws = np.random.default_rng(0).normal(size=(60_000, 128))
    forward, back = (s * 0.5 * draws[:, 0] - np.logaddexp.reduce(s * 0.5 * draws, axis=1) for s in (1, -1))
    moments = np.exp(4 * forward - 3 * back) * 128  # P = phi pi, so E_Q[(P/Q)^4 (P'/Q)^-3] with Q = phi / K
    estimate = np.log(moments.mean()) / 3
    error = moments.std() / np.sqrt(moments.size) / moments.mean() / 3
    assert abs(estimate - 1.947) < 4 * error + 5e-4 and estimate < both.absent[2]
    assert (both.absent >= curves(equal(7, 0.25, 1, 0.25)).absent).all()


def test_replacing_under_noise_doubles_the_distance() -> None:
    np.testing.assert_allclose(curves(Gaussian(0.3), "replacement").absent, curves(Gaussian(1.2)).absent)


def test_what_has_no_bound_is_refused() -> None:
    with pytest.raises(SettingError, match="no proven bound under sampling"):
        curves(Sampled(Gaussian(1.0), 0.1), "replacement")
    with pytest.raises(SettingError, match="choose one of zero_out, replacement"):
        curves(Gaussian(1.0), "swap")


def test_nothing_costs_nothing() -> None:
    assert not nothing().absent.any() and nothing().absent.shape == (255,)
    for event in (Gaussian(0.0), equal(7, 0.0, 3, 0.0), Sampled(Gaussian(0.0), 0.3)):
        assert not curves(event).absent.any() and not curves(event).present.any()


@pytest.mark.parametrize(("rate", "z"), [(0.01, 1.1), (0.2, 0.7), (1.0, 2.0)])
def test_dp_sgd_as_opacus_has_it(rate: float, z: float) -> None:
    analysis = pytest.importorskip("opacus.accountants.analysis.rdp")
    orders = list(range(2, 64))
    wanted = analysis.compute_rdp(q=rate, noise_multiplier=z, steps=7, orders=orders)
    np.testing.assert_allclose(7 * curves(dp_sgd_step(z, rate), top=63).absent, wanted, rtol=1e-9)


@pytest.mark.parametrize(("rate", "z"), [(0.01, 1.1), (0.2, 0.7)])
def test_dp_sgd_as_dp_accounting_has_it(rate: float, z: float) -> None:
    library = pytest.importorskip("dp_accounting")
    from dp_accounting import rdp

    orders = list(range(2, 64))
    account = rdp.RdpAccountant(orders)
    account.compose(library.PoissonSampledDpEvent(rate, library.GaussianDpEvent(z)), 7)
    np.testing.assert_allclose(7 * curves(dp_sgd_step(z, rate), top=63).absent, account._rdp, rtol=1e-9)

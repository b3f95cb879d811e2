"""The accountant: counts, saves, prices; its conversion against two libraries and the exact Gaussian."""

from __future__ import annotations

import json
from math import exp, log, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from fedwarm.privacy.accountant import Accountant, delta_of, epsilon_of, epsilon_of_both
from fedwarm.privacy.events import Gaussian, RandomCoding, Sampled, curves
from fedwarm.settings.fields import SettingError

QUICK = settings(max_examples=30)
CODED = RandomCoding(7, 0.5, ((0.3, 4),))


def exact_gaussian(energy: float, delta: float) -> float:
    """Balle and Wang (ICML 2018): the exact epsilon of the Gaussian mechanism with squared sensitivity over sigma^2 `energy`."""
    mu = sqrt(energy)

    def gap(epsilon: float) -> float:
        upper = stats.norm.cdf(mu / 2 - epsilon / mu)
        return float(upper - exp(epsilon) * stats.norm.cdf(-mu / 2 - epsilon / mu) - delta)

    return float(optimize.brentq(gap, 1e-9, 500.0))


def test_two_bits_at_c_one() -> None:
    """c = 1, b = 2, delta = 1e-5: 5.258, where the Gaussian formula would say 4.753."""
    account = Accountant(1e-5)
    account.spend(RandomCoding(2, 1.0, ((1.0, 1),)))
    assert account.epsilon() == pytest.approx(5.258, abs=5e-4)
    assert epsilon_of_both(curves(Gaussian(1.0)), 1e-5) == pytest.approx(4.753, abs=5e-4)


@pytest.mark.parametrize(
    ("blocks", "cap", "energy", "rounds", "value"), [(100, 1.0, 100.0, 1, 96.04), (4, 0.0625, 0.25, 8, 7.06)]
)
def test_design_examples(blocks: int, cap: float, energy: float, rounds: int, value: float) -> None:
    account = Accountant(1e-5)
    account.spend(RandomCoding(7, energy, ((cap, blocks),)), (3,), rounds)
    assert account.epsilon() == pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize(("energy", "times"), [(0.01, 10), (0.25, 4), (1.0, 20)])
def test_the_limit_of_many_candidates_is_above_the_exact_gaussian(energy: float, times: int) -> None:
    """b = 16 composes like the Gaussian mechanism, whose exact epsilon is known; RDP costs up to a fifth more."""
    account = Accountant(1e-5)
    account.spend(RandomCoding(16, energy, ((energy, 1),)), (0,), times)
    exact = exact_gaussian(energy * times, 1e-5)
    assert exact < account.epsilon() < 1.25 * exact
    assert account.epsilon() == pytest.approx(epsilon_of(times * curves(Gaussian(energy)).absent, 1e-5), rel=2e-3)


@pytest.mark.filterwarnings("ignore:Optimal order is the")
@pytest.mark.parametrize("delta", [1e-9, 1e-5, 1e-2])
def test_conversion_as_opacus_has_it(delta: float) -> None:
    analysis = pytest.importorskip("opacus.accountants.analysis.rdp")
    for curve in (3 * curves(CODED).absent, curves(Gaussian(9.0)).absent):
        wanted, _ = analysis.get_privacy_spent(orders=list(range(2, 257)), rdp=list(curve), delta=delta)
        assert epsilon_of(curve, delta) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("delta", [1e-9, 1e-5, 1e-2])
def test_conversion_as_dp_accounting_has_it(delta: float) -> None:
    rdp = pytest.importorskip("dp_accounting.rdp.rdp_privacy_accountant")
    for curve in (3 * curves(CODED).absent, curves(Gaussian(9.0)).absent, curves(Gaussian(1e-6)).absent):
        wanted, _ = rdp.compute_epsilon(list(range(2, 257)), list(curve), delta)
        assert epsilon_of(curve, delta) == pytest.approx(wanted, rel=1e-12)
        if 0 < wanted < 3:
            assert rdp.compute_delta(list(range(2, 257)), list(curve), wanted)[0] == pytest.approx(
                delta_of(curve, wanted), rel=1e-6
            )


@QUICK
@given(st.floats(1e-4, 30.0), st.floats(1e-12, 0.1))
def test_delta_and_epsilon_are_inverse(energy: float, delta: float) -> None:
    curve = curves(Gaussian(energy)).absent
    epsilon = epsilon_of(curve, delta)
    assert delta_of(curve, epsilon) <= delta * (1 + 1e-9)
    if epsilon > 0:
        assert delta_of(curve, epsilon * 0.999) > delta * (1 - 1e-9)


def test_nothing_spent_is_nothing_lost() -> None:
    account = Accountant(1e-5)
    assert account.epsilon() == 0.0 and account.epsilon(4) == 0.0
    account.spend(RandomCoding(7, 0.0, ((0.0, 3),)), (4,), 100)
    assert account.epsilon() == 0.0


def test_participations_add_up_exactly() -> None:
    once, twice = Accountant(1e-5), Accountant(1e-5)
    once.spend(CODED, (0,))
    twice.spend(CODED, (0,))
    twice.spend(CODED, (0,))
    doubled = curves(CODED) * 2
    assert twice.epsilon() == epsilon_of_both(doubled, 1e-5) > once.epsilon()
    assert np.array_equal(doubled.absent, (curves(CODED) + curves(CODED)).absent)


def test_the_largest_client_counts_in_the_local_view() -> None:
    account = Accountant(1e-5)
    for cohort in ((0, 1), (1, 2), (1, 3)):
        account.spend(CODED, cohort)
    assert account.epsilon(1) == account.epsilon() > account.epsilon(0) == account.epsilon(3) > account.epsilon(9) == 0.0


def test_what_touches_everyone_adds_to_each() -> None:
    account = Accountant(1e-5)
    account.spend(Gaussian(0.1))
    account.spend(CODED, (2,))
    alone = Accountant(1e-5)
    alone.spend(Gaussian(0.1), (7,))
    assert account.epsilon(0) == alone.epsilon(7) < account.epsilon(2) == account.epsilon()


def test_asking_first_books_nothing() -> None:
    account = Accountant(1e-5)
    account.spend(CODED, (0, 1))
    before = account.epsilon()
    asked = account.after(CODED, (1, 2))
    assert account.epsilon() == before < asked
    account.spend(CODED, (1, 2))
    assert account.epsilon() == asked


def test_a_checkpoint_goes_on_to_the_same_epsilon() -> None:
    account = Accountant(1e-6, "zero_out", reserve=1e-8, top=128)
    for event in (CODED, Gaussian(0.2), Sampled(CODED, 0.05), Sampled(Gaussian(0.3), 0.1)):
        account.spend(event)
        account.spend(CODED, (5, 3), 2)
    other = Accountant.from_state(json.loads(json.dumps(account.state())))
    assert other.epsilon() == account.epsilon() and other.epsilon(5) == account.epsilon(5)
    other.spend(CODED)
    account.spend(CODED)
    assert other.epsilon() == account.epsilon() and other.state() == account.state()


def test_what_is_reserved_of_delta_is_not_spent_twice() -> None:
    whole, less = Accountant(1e-5), Accountant(1e-5, reserve=1e-6)
    for account in (whole, less):
        account.spend(CODED, (0,), 3)
    assert less.epsilon() == epsilon_of_both(curves(CODED) * 3, 9e-6) > whole.epsilon()


@QUICK
@given(st.integers(1, 10), st.floats(0.05, 3.0), st.integers(1, 20))
def test_monotone(bits: int, energy: float, rounds: int) -> None:
    def epsilon(bits: int, energy: float, rounds: int) -> float:
        account = Accountant(1e-5, top=64)
        account.spend(RandomCoding(bits, energy, ((energy, 1),)), (0,), rounds)
        return account.epsilon()

    here = epsilon(bits, energy, rounds)
    assert epsilon(bits, energy * 1.2, rounds) >= here and epsilon(bits, energy, rounds + 1) > here


@pytest.mark.parametrize(("delta", "reserve"), [(0.0, 0.0), (1.0, 0.0), (1e-5, 1e-5), (1e-5, -1e-9), (float("nan"), 0.0)])
def test_deltas_that_make_no_sense_are_refused(delta: float, reserve: float) -> None:
    with pytest.raises(SettingError, match="delta = "):
        Accountant(delta, reserve=reserve)


def test_log_is_natural() -> None:
    """A curve D_alpha = r for all alpha, by hand at its best order."""
    orders = np.arange(2, 257)
    by_hand = min(0.5 + log((a - 1) / a) - (log(1e-5) + log(a)) / (a - 1) for a in orders.tolist())
    assert epsilon_of(np.full(255, 0.5), 1e-5) == pytest.approx(by_hand, rel=1e-14)

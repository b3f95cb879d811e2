"""Generators: different keys, different draws; the same keys, the same draws, for ever."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedwarm.core.seeds import Key, derive, generator, initialisation, numpy_generator

KEYS = st.lists(st.text(max_size=8) | st.integers(-5, 10**12), max_size=4)


@given(st.integers(0, 2**70), KEYS, st.integers(0, 2**70), KEYS)
def test_other_keys_give_another_seed(seed: int, keys: list[Key], other_seed: int, other: list[Key]) -> None:
    same = (seed, keys) == (other_seed, other)
    assert (derive(seed, *keys) == derive(other_seed, *other)) is same


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("1",), (1,)),
        (("a", "b"), ("ab",)),
        (("a", 1), (1, "a")),
        ((1, 12), (11, 2)),
        ((), ("",)),
        (("i1",), (1,)),
        (("a", "b"), ("a\x1fsb",)),
    ],
)
def test_keys_are_unambiguous(one: tuple[Key, ...], other: tuple[Key, ...]) -> None:
    assert derive(0, *one) != derive(0, *other)


def test_the_runs_seed_is_no_key() -> None:
    assert derive(1, 2) != derive(2, 1)
    assert derive(12) != derive(1, 2)


def test_values_stay_what_they_were() -> None:
    """SHA-256 of the text "i7", unit separator, "strain", unit separator, "i3": its first 8 bytes, shifted by one."""
    assert derive(7, "train", 3) == 1076639216592151002
    assert torch.randint(0, 1000, (5,), generator=generator(7, "train", 3)).tolist() == [677, 407, 955, 391, 472]
    assert numpy_generator(7, "train", 3).integers(0, 1000, 5).tolist() == [19, 171, 965, 620, 821]


@given(st.integers(0, 2**63), KEYS)
def test_seeds_fit_in_63_bits(seed: int, keys: list[Key]) -> None:
    assert 0 <= derive(seed, *keys) < 2**63


def test_generators_repeat_and_do_not_touch_the_global_one() -> None:
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    first, second = (torch.randn(100, generator=generator(1, "x", 2)) for _ in range(2))
    assert torch.equal(first, second)
    assert np.array_equal(numpy_generator(1, "x", 2).normal(size=9), numpy_generator(1, "x", 2).normal(size=9))
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # type: ignore[index]


def test_streams_of_different_keys_are_not_correlated() -> None:
    streams = torch.stack([torch.randn(10_000, generator=generator(0, "client", k)) for k in range(8)])
    correlation = torch.corrcoef(streams) - torch.eye(8)
    assert correlation.abs().max() < 0.05  # five standard errors of 1 / sqrt(10,000)


def test_initialisation_restores_the_global_generator() -> None:
    before = torch.get_rng_state()
    with initialisation(3, "model"):
        first = torch.randn(10)
    assert torch.equal(torch.get_rng_state(), before)
    with initialisation(3, "model"):
        second = torch.randn(10)
    with initialisation(4, "model"):
        third = torch.randn(10)
    assert torch.equal(first, second) and not torch.equal(first, third)


def test_initialisation_restores_after_an_error() -> None:
    before = torch.get_rng_state()
    with pytest.raises(KeyError), initialisation(3):
        torch.randn(10)
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before)

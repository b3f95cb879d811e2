"""Gen-FedSD's counts: targets, gaps, budgets, weights, distances, and how many images it takes."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from fedwarm.augmentations.gen_fedsd.amounts import (
    GenFedSD,
    amounts,
    budget,
    gaps,
    global_target,
    scaled,
    target,
    validated,
    weight,
)
from fedwarm.catalogue import parse
from fedwarm.data.classes import imbalance
from fedwarm.settings.fields import SettingError

IMAGE_BYTES = 3 * 32 * 32
RULES = (GenFedSD(), GenFedSD(rule="client_mean"), GenFedSD(rule="fixed", fixed=7), GenFedSD(rule="global"))
COUNTS = st.lists(st.integers(0, 60), min_size=1, max_size=12)


def wanted(counts: list[int], settings: GenFedSD, announced: int = 0) -> list[int]:
    return amounts(settings, counts, announced, image_bytes=IMAGE_BYTES)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (GenFedSD(), [0, 5, 2]),
        (GenFedSD(rule="client_mean"), [0, 4, 1]),
        (GenFedSD(rule="fixed", fixed=10), [5, 10, 7]),
        (GenFedSD(rule="global"), [0, 4, 1]),
        (GenFedSD(budget_images=4), [0, 3, 1]),
        (GenFedSD(budget_images=7), [0, 5, 2]),
        (GenFedSD(cap=0.5), [0, 3, 1]),
        (GenFedSD(budget_mb=0.0123), [0, 3, 1]),
        (GenFedSD(cap=5.0, budget_images=4, budget_mb=1.0), [0, 3, 1]),
        (GenFedSD(provider="none"), [0, 0, 0]),
        (GenFedSD(provider="transforms"), [0, 0, 2]),
        (GenFedSD(cap=0.01), [0, 0, 0]),
    ],
)
def test_amounts_by_hand(settings: GenFedSD, expected: list[int]) -> None:
    assert wanted([5, 0, 3], settings, announced=4) == expected


def test_seconds_are_images_by_the_measured_speed() -> None:
    settings = GenFedSD(budget_seconds=10.0)
    assert budget(settings, 100, IMAGE_BYTES) is None
    assert amounts(settings, [5, 0, 3], image_bytes=IMAGE_BYTES, seconds_per_image=2.5) == [0, 3, 1]
    assert amounts(settings, [5, 0, 3], image_bytes=IMAGE_BYTES, seconds_per_image=11.0) == [0, 0, 0]
    assert amounts(settings, [5, 0, 3], image_bytes=IMAGE_BYTES) == [0, 5, 2]


@given(
    wanted=st.lists(st.integers(0, 60), min_size=1, max_size=8), seconds=st.integers(1, 300), batch=st.sampled_from([1, 4, 16])
)
def test_a_budget_of_seconds_pays_whole_batches(wanted: list[int], seconds: int, batch: int) -> None:
    """All that is wanted where it can be paid; else less than a batch of the budget is left, and it is never overrun."""
    settings, counts = GenFedSD(rule="fixed", fixed=100, budget_seconds=seconds), [100 - n for n in wanted]
    found = amounts(settings, counts, image_bytes=IMAGE_BYTES, seconds_per_image=0.5, batch=batch)
    spent, whole = (sum(-(-n // batch) for n in some) * batch * 0.5 for some in (found, wanted))
    assert spent <= seconds and all(a <= b for a, b in zip(found, wanted, strict=True))
    assert found == wanted if whole <= seconds else seconds - spent < batch * 0.5


def test_the_mean_is_over_classes_that_are_held_and_halves_go_up() -> None:
    mean = GenFedSD(rule="client_mean")
    assert [target(mean, counts) for counts in ([4, 0, 5], [1, 0, 0], [1, 2, 3, 3], [0, 0])] == [5, 1, 2, 0]
    assert global_target([[5, 0, 3], [1, 2, 4]]) == 3 and global_target([[-3, 1]]) == 0


def test_of_equal_remainders_missing_classes_go_first_and_then_the_lower_one() -> None:
    assert scaled([2, 2, 2, 2], 2, [1, 1, 0, 0]) == [0, 0, 1, 1]
    assert scaled([2, 2, 2, 2], 3, [1, 1, 0, 0]) == [1, 0, 1, 1]
    assert scaled([3, 3], 1, [2, 2]) == [1, 0]


@given(counts=COUNTS, most=st.integers(0, 400))
def test_a_budget_is_used_up_and_never_exceeded(counts: list[int], most: int) -> None:
    missing = gaps(counts, max(counts))
    got = scaled(missing, most, counts)
    assert sum(got) == min(most, sum(missing))
    for some, all_of_them in zip(got, missing, strict=True):
        assert 0 <= some <= all_of_them
        if sum(missing):
            assert abs(some - all_of_them * min(1, most / sum(missing))) < 1


@given(counts=COUNTS)
def test_the_largest_class_makes_every_histogram_flat(counts: list[int]) -> None:
    added = wanted(counts, GenFedSD())
    assert {a + b for a, b in zip(counts, added, strict=True)} == {max(counts)}
    assert sum(added) == len(counts) * max(counts) - sum(counts)
    assert weight(GenFedSD(), counts, added) == len(counts) * max(counts)
    assert weight(GenFedSD(weight_by="real"), counts, added) == sum(counts)


@given(n=st.integers(0, 50), classes=st.integers(1, 20))
def test_a_balanced_client_needs_nothing(n: int, classes: int) -> None:
    counts = [n] * classes
    for settings in (RULES[0], RULES[1], GenFedSD(rule="fixed", fixed=max(1, n)) if n else RULES[0]):
        assert wanted(counts, settings) == [0] * classes
    assert global_target([counts] * 3) == n and wanted(counts, RULES[3], n) == [0] * classes


@given(counts=COUNTS.filter(any), announced=st.integers(0, 40))
@hypothesis_settings(max_examples=300)
def test_labels_come_nearer_to_uniform(counts: list[int], announced: int) -> None:
    before = imbalance(counts)
    assert before == pytest.approx(sum(abs(n / sum(counts) - 1 / len(counts)) for n in counts) / 2)
    for settings in RULES:
        added = wanted(counts, settings, announced)
        after = imbalance([a + b for a, b in zip(counts, added, strict=True)])
        assert after == 0 if settings.rule == "client_max" else after < before or before == after == 0 or not any(added)


def test_no_examples_have_no_law() -> None:
    with pytest.raises(ValueError, match="undefined without examples"):
        imbalance([0, 0])


# Images per rule, of 50,000 real ones, each class dealt by a Dirichlet law over the clients; means of 20 draws
TABLE = {
    (10, 10, 0.1): (225_198, 35_336), (10, 10, 0.5): (121_888, 22_485), (10, 100, 0.1): (271_630, 37_345),
    (10, 100, 0.3): (176_195, 28_665), (10, 100, 0.5): (138_782, 24_220), (100, 10, 0.1): (412_765, 35_351),
    (100, 100, 0.1): (919_935, 37_908), (100, 100, 0.3): (465_535, 29_415),
}  # fmt: skip
TABLE_DRAWS, DRAWS = 20, 60


@pytest.mark.parametrize(("classes", "clients", "alpha"), TABLE)
def test_how_many_images_it_takes(classes: int, clients: int, alpha: float) -> None:
    rng, each = np.random.default_rng([classes, clients, round(10 * alpha)]), 50_000 // classes
    totals = np.empty((DRAWS, 2))
    for draw in range(DRAWS):
        laws = rng.dirichlet(np.full(clients, alpha), size=classes)
        held = [[int(n) for n in column] for column in np.array([rng.multinomial(each, law) for law in laws]).T]
        told = global_target(held)
        for rule, settings in enumerate((GenFedSD(), GenFedSD(rule="global"))):
            totals[draw, rule] = sum(sum(wanted(counts, settings, told)) for counts in held)
    errors = totals.std(0, ddof=1) * sqrt(1 / DRAWS + 1 / TABLE_DRAWS)
    assert (np.abs(totals.mean(0) - TABLE[classes, clients, alpha]) < 3 * errors).all(), totals.mean(0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rule": "fixed"}, "gen-fedsd.rule = 'fixed' needs gen-fedsd.fixed"),
        ({"provider": "file"}, "gen-fedsd.provider = 'file' needs gen-fedsd.file"),
        ({"prompt-mode": "single", "prompt": "a cat"}, "gen-fedsd.prompt = 'a cat' does not say where the class stands"),
        ({"histogram-epsilon": 1.0}, "histogram-epsilon works only with rule = 'global'; 'client_max' sends no histogram"),
    ],
)
def test_settings_that_do_not_go_together(changes: dict[str, str | float], said: str) -> None:
    config = parse({f"gen-fedsd.{name}": value for name, value in changes.items()})
    with pytest.raises(SettingError, match=said) as error:
        validated(config.of(GenFedSD))
    assert "\n" not in str(error.value)
    assert validated(GenFedSD()) == GenFedSD()


@pytest.mark.parametrize(
    ("name", "value"),
    [("rule", "max"), ("cap", -1.0), ("pool", -1), ("judge-least", 1.5), ("judge-tries", 0), ("weight-by", "all")],
)
def test_values_out_of_range(name: str, value: str | float) -> None:
    with pytest.raises(SettingError, match=f"gen-fedsd.{name} = "):
        parse({f"gen-fedsd.{name}": value})

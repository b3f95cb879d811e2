"""Parts of work on two cards that a stand-in has: who computed where, errors, and an end before all is done."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch

from fedwarm.core import placement
from fedwarm.core.over_cards import over_cards

Placed = list[tuple[int | None, int]]


@pytest.fixture
def placed() -> Iterator[Placed]:
    """Who was placed on which of two cards."""
    found: Placed = []
    cards = placement.Cards(
        lambda: 2, lambda number: torch.device("cpu"), hears=lambda worker, card: found.append((worker, card))
    )
    with placement.standing_in(cards):
        yield found


def part(number: int, count: int) -> Iterator[str]:
    for step in range(count):
        placement.placed("cuda")
        yield f"{number}.{step}"


def parts(*counts: int) -> list[Callable[[], Iterator[str]]]:
    return [partial(part, number, count) for number, count in enumerate(counts)]


def test_each_part_is_on_a_card_of_its_own_and_all_results_come(placed: Placed) -> None:
    assert sorted(over_cards(parts(3, 2))) == ["0.0", "0.1", "0.2", "1.0", "1.1"]
    assert sorted(placed) == [(0, 0), (0, 0), (0, 0), (1, 1), (1, 1)]
    placement.placed("cuda")
    assert placed[-1] == (None, 0), "whoever asked is where it was"
    assert list(over_cards([])) == []


def test_an_error_comes_out_once_all_have_ended(placed: Placed) -> None:
    def broken() -> Iterator[str]:
        yield "first"
        raise ValueError("within a part")

    with pytest.raises(ValueError, match="within a part"):
        list(over_cards([broken, *parts(2)]))
    assert not [thread for thread in threading.enumerate() if thread.daemon and "run" in thread.name]


def test_who_wants_no_more_waits_for_what_is_begun_alone(placed: Placed) -> None:
    def endless() -> Iterator[int]:
        number = 0
        while True:
            yield (number := number + 1)

    drawn = over_cards([endless, endless])
    assert next(drawn) == 1
    drawn.close()

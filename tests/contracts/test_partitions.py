"""What every partition keeps to, an installed package's own among them; each check can be called for any partition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fedwarm.data.partitions import client_rows, own_clients
from fedwarm.data.rows import FEWEST
from fedwarm.data.sets.digits import digits_table
from fedwarm.data.settings import Data
from fedwarm.data.tables import public_rows
from fedwarm.data.testing import dealt
from fedwarm.settings.kinds import PARTITIONS
from fedwarm.settings.registry import Kind

Check = Callable[[Kind[Any], str], None]
DIGITS = digits_table(8)


def counts(name: str) -> list[int]:
    """Numbers of clients that the partition makes: its own, and fewer."""
    own = own_clients(DIGITS, Data(partition=name))
    return [own, max(1, own // 2)] if own else [6, 1]


def check_dealt(kind: Kind[Any], name: str) -> None:
    """Each client has its rows, ascending, nobody has another's, and none is left over unless the partition says so."""
    for clients in counts(name):
        parts = client_rows(DIGITS, Data(partition=name), 0, clients)
        rows = np.concatenate(parts)
        assert len(parts) == clients and all(len(part) >= FEWEST and (np.diff(part) > 0).all() for part in parts)
        assert len(np.unique(rows)) == len(rows) and set(rows) <= set(range(len(DIGITS)))
        assert len(rows) == len(DIGITS) or not getattr(kind.load(name), "whole", True)


def check_seeded(kind: Kind[Any], name: str) -> None:
    """The seed alone decides, and nobody's random numbers are used up."""
    data, clients = Data(partition=name), counts(name)[0]
    before = np.random.get_state()[1].tolist()  # type: ignore[index, union-attr]
    first = client_rows(DIGITS, data, 3, clients)
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index, union-attr]
    np.random.seed(17)
    again = client_rows(DIGITS, data, 3, clients)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def check_public(kind: Kind[Any], name: str) -> None:
    """No client holds an image of the public part."""
    public = public_rows(DIGITS, 0.3)
    held = np.concatenate(client_rows(DIGITS, Data(partition=name, public_share=0.3), 0, counts(name)[0]))
    assert len(public) and not set(public) & set(held)
    assert len(held) + len(public) == len(DIGITS) or not getattr(kind.load(name), "whole", True)


def check_tests(kind: Kind[Any], name: str) -> None:
    """A test split is dealt to those who hold what it is of; each of its images to one client at most."""
    data = Data(partition=name)
    rows = client_rows(DIGITS, data, 0, counts(name)[0])
    tests = dealt(data, 0, DIGITS, rows, DIGITS)
    together = np.concatenate(tests)
    assert len(tests) == len(rows) and len(together) and len(np.unique(together)) == len(together)
    assert len(together) == len(DIGITS) or not getattr(kind.load(name), "whole", True)


CHECKS: tuple[Check, ...] = (check_dealt, check_seeded, check_public, check_tests)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", PARTITIONS)
def test_contract(name: str, check: Check) -> None:
    check(PARTITIONS, name)

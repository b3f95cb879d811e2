"""What every robust rule keeps to, an installed package's own among them; each check can be called for any rule."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from fedwarm.aggregators import Aggregator, Robust, aggregator, needs
from fedwarm.core.arrays import Arrays
from fedwarm.relevance import Run
from fedwarm.settings.kinds import RULES
from fedwarm.settings.registry import Kind

Check = Callable[[Kind[Any], str], None]


def weighs(kind: Kind[Any], name: str) -> bool:
    """Whether the rule says that it looks at weights; one that does not is taken for robust."""
    does = getattr(kind.load(name), "does", None)
    return does is None or bool(does(Run({}, "fedavg")).get("weighs", True))


def cohort(name: str, at_least: int = 5) -> list[Arrays]:
    """Honest replies, all near 1, as many as the rule needs and one more."""
    draws = np.random.default_rng(0)
    count = max(at_least, needs(Robust(rule=name)) + 1)
    return [
        {
            "w": draws.normal(1.0, 0.01, (3, 4)).astype(np.float32),
            "bias": draws.normal(1.0, 0.01, 3),
            "half": draws.normal(1.0, 0.01, ()).astype(np.float16),
            "steps": np.array([7, 9]),
            "empty": np.ones((0, 2)),
        }
        for _ in range(count)
    ]


def fresh(name: str, reference: Arrays, **settings: Any) -> Aggregator:
    return aggregator(Robust(rule=name, **settings), reference)


def combined(name: str, replies: Sequence[Arrays], weights: Sequence[float] = (), **settings: Any) -> Arrays:
    rule = fresh(name, replies[0], **settings)
    for reply, weight in zip(replies, weights or [1.0] * len(replies), strict=True):
        rule.add(reply, weight)
    return rule.result()


def check_order(kind: Kind[Any], name: str) -> None:
    """The order of clients changes nothing but rounding."""
    replies = cohort(name)
    first = combined(name, replies)
    for seed in range(5):
        other = combined(name, [replies[i] for i in np.random.default_rng(seed).permutation(len(replies))])
        for key, array in first.items():
            np.testing.assert_allclose(other[key], array, rtol=1e-6, atol=1e-9)


def check_alike(kind: Kind[Any], name: str) -> None:
    """One client, or as many as are needed that say the same, come back as they are; one fewer is refused."""
    reply, least = cohort(name)[0], needs(Robust(rule=name))
    made = combined(name, [reply] * least)
    for key, array in reply.items():
        np.testing.assert_allclose(made[key], array, rtol=1e-15)
    if least > 1:
        with pytest.raises(ValueError, match=str(least)):
            combined(name, [reply] * (least - 1))
    with pytest.raises(ValueError, match="no (replies to aggregate|arrays to average)"):
        fresh(name, {}).result()


def check_liar(kind: Kind[Any], name: str) -> None:
    """One liar does not move a rule far that does not look at weights, and its weight moves it not at all."""
    if weighs(kind, name):
        return
    replies = cohort(name)
    liar: Arrays = {**replies[2], "w": np.full((3, 4), 1e6, np.float32), "bias": np.full(3, -1e6)}
    made = combined(name, [*replies[:2], liar, *replies[3:]])
    for key in ("w", "bias"):
        np.testing.assert_allclose(made[key], 1.0, atol=0.1)
    claimed = combined(name, replies, [1.0] * (len(replies) - 1) + [1e6])
    assert all(np.array_equal(claimed[key], array) for key, array in combined(name, replies).items())


def check_kept(kind: Kind[Any], name: str) -> None:
    """Names, shapes and dtypes are kept, with clipping and without; what clients sent is not written to."""
    replies = cohort(name)
    for reply in replies:
        for array in reply.values():
            array.flags.writeable = False
    before = copy.deepcopy(replies)
    for clip in (0.0, 0.5):
        made = combined(name, replies, clip_norm=clip)
        kept = {key: (array.dtype, array.shape) for key, array in replies[0].items()}
        assert {key: (array.dtype, array.shape) for key, array in made.items()} == kept
        assert all(np.isfinite(array).all() for array in made.values())
    assert all(np.array_equal(a[key], b[key]) for a, b in zip(replies, before, strict=True) for key in a)


def check_refused(kind: Kind[Any], name: str) -> None:
    """Replies that do not fit, and weights that are none, are refused when they come."""
    reply = cohort(name)[0]
    for bad in ({"w": reply["w"]}, {**reply, "x": np.ones(1)}, {**reply, "bias": np.ones(4)}):
        rule = fresh(name, reply)
        rule.add(reply, 1.0)
        with pytest.raises(ValueError, match="arrays differ|has shape"):
            rule.add(bad, 1.0)
    for weight in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="is not positive"):
            fresh(name, reply).add(reply, weight)


CHECKS: tuple[Check, ...] = (check_order, check_alike, check_liar, check_kept, check_refused)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", RULES)
def test_contract(name: str, check: Check) -> None:
    check(RULES, name)

"""The codec `top-k`: what travels, in how many bytes, and what a client keeps for the next time."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from fedwarm.catalogue import parse
from fedwarm.codecs import WORDS
from fedwarm.codecs.top_k import Largest
from fedwarm.coding.packing import CodeError
from fedwarm.core.arrays import Arrays
from fedwarm.core.payload import Payload
from fedwarm.core.stages import Place
from fedwarm.core.store import Store
from fedwarm.data.node import Node
from fedwarm.settings.fields import Value
from tests.runs import run, same

REFERENCE: Arrays = {"w": np.zeros((10, 9), np.float32), "v": np.ones(10, np.float32), "count": np.zeros((), np.int64)}


def codec(share: float, residual: bool = True) -> Largest:
    return Largest(parse({"codec": "top-k", "method": "fedavg", "top-k.share": share, "top-k.residual": residual}))


def reply(seed: int) -> Payload:
    draws = np.random.default_rng(seed)
    moved: Arrays = {
        n: (a + draws.normal(size=a.shape)).astype(a.dtype) if a.dtype.kind == "f" else a for n, a in REFERENCE.items()
    }
    return Payload("weights", moved, {"num-examples": 3})


def encoded(one: Largest, answer: Payload, number: int = 1) -> Payload:
    return one.encode(answer, Payload(), REFERENCE, Place(0, "round", number, 0), torch.device("cpu"))


@pytest.mark.parametrize(("share", "size"), [(0.1, 40 + 13), (0.5, 200 + 13), (0.01, 4 + 4), (1.0, 400 + 13)])
def test_the_largest_numbers_travel(share: float, size: int) -> None:
    """k of 100 numbers as float32, and their places in whichever of two ways is shorter."""
    one, answer = codec(share), reply(0)
    words = encoded(one, answer)
    assert words.arrays[WORDS].shape == one.expected(REFERENCE)[WORDS].shape == (size,)
    back = one.decode(words, REFERENCE, Place(0, "round", 1, 0)).arrays
    truth = np.concatenate([(answer.arrays[n] - REFERENCE[n]).ravel() for n in ("v", "w")])
    found = np.concatenate([(back[n] - REFERENCE[n]).ravel() for n in ("v", "w")])
    kept = found != 0
    assert kept.sum() == round(100 * share) and np.abs(truth[kept]).min() >= np.abs(truth[~kept]).max(initial=0)
    np.testing.assert_allclose(found[kept], truth[kept], atol=1e-6)


def test_what_did_not_travel_is_added_next_time(tmp_path: Path) -> None:
    """Sums of what was sent and what is left are the sums of the updates."""
    node, sent = Node(0, 1, Store(tmp_path, "ab", 0, 64)), np.zeros(100)
    for number in (1, 2, 3):
        one = codec(0.2)
        place = Place(0, "round", number, 0)
        words = one.guarded(node, place, Payload(), REFERENCE, lambda one=one, number=number: encoded(one, reply(number), number))  # type: ignore[misc]
        back = one.decode(words, REFERENCE, place).arrays
        sent += np.concatenate([(back[n] - REFERENCE[n]).ravel() for n in ("v", "w")])
    truth = sum(np.concatenate([(reply(k).arrays[n] - REFERENCE[n]).ravel() for n in ("v", "w")]) for k in (1, 2, 3))
    left = np.concatenate([one.left[name] for name in ("v", "w")])
    np.testing.assert_allclose(sent + left, truth, atol=1e-5)


def test_what_is_left_of_an_array_waits_for_that_array(tmp_path: Path) -> None:
    """As of the experts of IFCA, of which a client sends now one and now the other."""
    node, left = Node(0, 1, Store(tmp_path, "ab", 0, 64)), {}
    for number, name in enumerate(("a", "b", "b", "a"), 1):
        one, place, known = codec(0.25), Place(0, "round", number, 0), {name: np.zeros(8, np.float32)}
        answer = Payload("weights", {name: np.arange(8, dtype=np.float32) * number})
        encode = partial(one.encode, answer, Payload(), known, place, torch.device("cpu"))
        words = one.guarded(node, place, Payload(), known, encode)
        told = one.decode(words, known, place).arrays[name].astype(float)
        left[name] = left.get(name, 0.0) + answer.arrays[name] - told
        assert (told != 0).sum() == 2
    kept = node.store.load("top-k-residual-round")
    assert kept is not None and {*kept} == {"a", "b"}
    for name, values in left.items():
        np.testing.assert_allclose(kept[name].numpy(), values, atol=1e-5)


def test_what_nobody_encoded_is_refused() -> None:
    one, place = codec(0.1), Place(0, "round", 1, 0)
    words = encoded(one, reply(0)).arrays[WORDS].copy()
    words[0] ^= 255
    with pytest.raises(CodeError, match="are not 10 different ones"):
        one.decode(Payload("words", {WORDS: words, "count": REFERENCE["count"]}), REFERENCE, place)
    words[-4:] = 255
    with pytest.raises(ValueError, match="NaN or infinity"):
        one.decode(Payload("words", {WORDS: words, "count": REFERENCE["count"]}), REFERENCE, place)


def test_a_resumed_run_takes_up_what_clients_kept(tmp_path: Path) -> None:
    given: dict[str, Value] = {
        "num-server-rounds": 3, "local-epochs": 1, "data.max-examples": 24, "data.image-size": 8, "model.name": "logistic",
        "codec": "top-k", "fraction-train": 0.5,
    }  # fmt: skip
    whole = run("fedavg", tmp_path / "whole", given)
    run("fedavg", tmp_path / "part", {**given, "num-server-rounds": 2})
    assert same(run("fedavg", tmp_path / "part", {**given, "resume": True}).model, whole.model)
    other = run("fedavg", tmp_path / "other", {**given, "top-k.residual": False})
    assert not same(other.model, whole.model)

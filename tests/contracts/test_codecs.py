"""What every codec keeps to, an installed package's own among them; each check can be called for any codec."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from fedwarm.catalogue import parse
from fedwarm.codecs import Codec, Upload
from fedwarm.core.arrays import Arrays
from fedwarm.core.payload import Payload, check_arrays
from fedwarm.core.stages import Place
from fedwarm.settings.fields import Value
from fedwarm.settings.kinds import CODECS
from fedwarm.settings.registry import Kind

SEEDED: dict[str, dict[str, Value]] = {"dp-rec": {"dp-rec.entropy": "seeded", "dp-rec.sigma": 0.05}}
PLACE, CPU = Place(3, "round", 2, 1), torch.device("cpu")
Check = Callable[[Kind[Any], str], None]


def reference() -> Arrays:
    draws = np.random.default_rng(0)
    return {
        "w": draws.normal(size=(6, 5)).astype(np.float32),
        "b": draws.normal(size=7).astype(np.float32),
        "steps": np.array(4),
    }


def update(scale: float = 0.1) -> Arrays:
    draws = np.random.default_rng(1)
    return {
        name: array + (scale * draws.normal(size=array.shape)).astype(array.dtype) if array.dtype.kind == "f" else array
        for name, array in reference().items()
    }


def opened(name: str) -> Codec:
    codec: Codec = CODECS.load(name)(parse({"codec": name, "method": "fedavg", **SEEDED.get(name, {})}))
    codec.open({"round": Upload(reference(), 2)}, 4, 4)
    return codec


def coded(name: str, arrays: Arrays) -> tuple[Codec, Payload]:
    """The server's half, and a reply as it travels from a client whose half is another object."""
    server, client = opened(name), CODECS.load(name)(parse({"codec": name, "method": "fedavg", **SEEDED.get(name, {})}))
    sent = Payload("weights", reference(), {"round": 2, **server.told()})
    reply = Payload("weights", arrays, {"num-examples": 5, "train-loss": 1.0})
    return server, client.encode(reply, sent, reference(), PLACE, CPU)


def check_shapes(kind: Kind[Any], name: str) -> None:
    """What travels is what the server expects, and comes back in the model's names, shapes and dtypes."""
    server, travels = coded(name, update())
    check_arrays(travels.arrays, server.expected(reference()))
    back = server.decode(travels, reference(), PLACE)
    check_arrays(back.arrays, reference())
    assert back.count("num-examples", 1) >= 1


def check_near(kind: Kind[Any], name: str) -> None:
    """What comes back has something of what was sent: it lies nearer to it than its mirror image does."""
    server, travels = coded(name, update())
    back = server.decode(travels, reference(), PLACE).arrays
    moved = {n: (a - reference()[n]).ravel().astype(np.float64) for n, a in back.items() if a.dtype.kind == "f"}
    truth = {n: (update()[n] - reference()[n]).ravel().astype(np.float64) for n in moved}
    assert sum(float(moved[n] @ truth[n]) for n in moved) > 0


def check_no_update(kind: Kind[Any], name: str) -> None:
    """Of no update nothing but the codec's own noise comes back."""
    server, travels = coded(name, reference())
    back = server.decode(travels, reference(), PLACE).arrays
    assert all(np.isfinite(a).all() for a in back.values() if a.dtype.kind == "f")
    if not server.private:
        assert all(np.array_equal(back[n], a) for n, a in reference().items())


def check_repeats(kind: Kind[Any], name: str) -> None:
    """The same message at the same place is the same bytes."""
    (_, one), (_, two) = coded(name, update()), coded(name, update())
    assert all(np.array_equal(one.arrays[n], two.arrays[n]) for n in one.arrays)


def check_account(kind: Kind[Any], name: str) -> None:
    """What it keeps in a checkpoint is JSON, and a codec that takes it up says the same of privacy."""
    server = opened(name)
    server.book("round", (0, 1))
    kept = json.loads(json.dumps(server.facts()))
    again: Codec = CODECS.load(name)(parse({"codec": name, "method": "fedavg", **SEEDED.get(name, {})}))
    again.restore(kept)
    again.open({"round": Upload(reference(), 2)}, 4, 4)
    assert again.statement() == server.statement() and (server.statement() is not None) is server.private
    assert CODECS.load(name).hides is server.private, "a private one that is not known to hide has clients tell what they hold"


CHECKS: list[Check] = [check_shapes, check_near, check_no_update, check_repeats, check_account]


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_codecs(check: Check, name: str) -> None:
    check(CODECS, name)

"""Every tuner: what it sends is what the server expects of it, it moves by seed and client alone, and the foundation stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedwarm.catalogue import parse
from fedwarm.core.arrays import Arrays, from_tensors
from fedwarm.diffusion.foundation import Foundation
from fedwarm.diffusion.lora import attached, load_adapter
from fedwarm.diffusion.settings import Diffusion
from fedwarm.diffusion.tuners import Tuner, tuner_for
from fedwarm.diffusion.tuning import Tuning
from fedwarm.settings.fields import SettingError, Value
from fedwarm.settings.kinds import TUNERS
from fedwarm.settings.registry import summary

MINE = """
from fedwarm.diffusion.tuners import Tuner


class Plain(Tuner):
    summary = "LoRA as it is"
"""
SHORT: dict[str, Value] = {"diffusion.lora-steps": 2, "diffusion.lora-batch-size": 4}


@pytest.fixture
def made(settings: Diffusion) -> Callable[..., Tuner]:
    """A tuner with the short settings of the small pipeline."""

    def make(name: str, **more: Value) -> Tuner:
        own: dict[str, Value] = {f"diffusion.{key.replace('_', '-')}": value for key, value in vars(settings).items()}
        return tuner_for(parse({"method": "warmfed", **own, "diffusion.trainer": name, **SHORT, **more}))

    return make


@pytest.fixture
def tune(foundation: Foundation, pictures: tuple[Tensor, Tensor], sentences: list[str], tmp_path: Path) -> Any:
    def run(tuner: Tuner, seed: int = 0, client: int = 0) -> Arrays:
        tuning = Tuning(foundation, *pictures, sentences, tuner.diffusion, seed, client)
        return from_tensors(tuner.tune(tuning, folder=tmp_path / "own"))

    return run


def same(a: Arrays, b: Arrays) -> bool:
    return a.keys() == b.keys() and all((a[name] == b[name]).all() for name in a)


@pytest.mark.parametrize("name", TUNERS.names())
def test_both_sides_agree_on_what_a_client_sends(foundation: Foundation, made: Any, tune: Any, tmp_path: Path, name: str) -> None:
    tuner: Tuner = made(name)
    tuner.check_before(2)
    beside = {"classifier.weight": tuner.matrices(foundation)[next(iter(tuner.matrices(foundation)))]}
    parts, first, sent = tuner.parts(foundation, beside), tuner.reference(foundation, 1), tune(tuner, client=1)
    assert summary(TUNERS.load(name))
    assert {n: (a.shape, a.dtype) for n, a in sent.items()} == {n: (a.shape, a.dtype) for n, a in first.items()}
    assert parts.of(1).keys() == {*sent, *beside} and list(parts.answered(1, [*sent, *beside])) == list(parts.of(1))
    assert parts.of(0).keys() <= parts.union([0, 1]).keys() <= parts.whole.keys()
    assert any((sent[n] != first[n]).any() for n in sent) and not list((tmp_path / "own").glob("*"))
    used = parts.used({1: sent})[1]
    with attached(foundation.pipe.unet, parts.attaching(used), 0, "contract"):
        load_adapter(foundation.pipe.unet, {n: torch.from_numpy(a) for n, a in used.items()})


@pytest.mark.parametrize("name", TUNERS.names())
def test_seed_and_client_decide_all_and_the_foundation_stays(
    foundation: Foundation, made: Any, tune: Any, digest: Callable[[nn.Module], str], name: str
) -> None:
    tuner, parts = made(name), (foundation.pipe.unet, foundation.pipe.vae, foundation.pipe.text_encoder)
    before, world = [digest(part) for part in parts], torch.get_rng_state()
    first = tune(tuner)
    assert torch.equal(torch.get_rng_state(), world)
    torch.rand(3)
    assert same(tune(tuner), first) and not same(tune(tuner, seed=1), first) and not same(tune(tuner, client=1), first)
    assert [digest(part) for part in parts] == before
    assert not any(p.requires_grad or p.grad is not None for part in parts for p in part.parameters())


@pytest.mark.parametrize("name", TUNERS.names())
def test_privacy_is_covered_or_refused(made: Any, name: str) -> None:
    tuner = made(name, privacy="dp-sgd")
    if tuner.private:
        return tuner.check_settings()
    with pytest.raises(
        SettingError, match=f"does not cover diffusion.trainer = {name!r}: .*; use diffusion.trainer = "
    ) as caught:
        tuner.check_before(1)
    assert "\n" not in str(caught.value)


def test_a_users_own_tuner(made: Any, tune: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mytuners.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    mine = made("mytuners:Plain")
    assert same(tune(mine), tune(made(Diffusion.trainer)))
    with pytest.raises(SettingError, match="nobody accounts for its steps"):
        made("mytuners:Plain", privacy="dp-sgd").check_settings()

"""Memory that is counted before a foundation is loaded: against what is loaded, and refused where there is too little."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fedwarm.catalogue import parse
from fedwarm.core import placement
from fedwarm.diffusion import needs as module
from fedwarm.diffusion.autoencoder import LEAST, picture_bytes
from fedwarm.diffusion.families import usual_family
from fedwarm.diffusion.foundation import load_foundation
from fedwarm.diffusion.lora import adapter_size
from fedwarm.diffusion.needs import SINGLE_STATES, STATES, Need, needs, plan, room
from fedwarm.diffusion.settings import Diffusion
from fedwarm.diffusion.tuners.hollowed.cuts import cut_at, removed_weights
from fedwarm.diffusion.tuners.hollowed.memory import footprint
from fedwarm.launch.outlook import outlook
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError, Value
from tests import cards
from tests.families import PIPELINES, write_pipeline

CPU = torch.device("cpu")
NOTHING: Mapping[str, Value] = {}


@pytest.fixture(scope="module", params=PIPELINES)
def settings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Diffusion:
    folder = write_pipeline(request.param, tmp_path_factory.mktemp("needs") / request.param)
    return Diffusion(foundation=str(folder), scheduler="foundation", lora_batch_size=2)


def run(settings: Diffusion, **more: Value) -> Config:
    own: dict[str, Value] = {f"diffusion.{key.replace('_', '-')}": value for key, value in vars(settings).items()}
    return parse({"method": "warmfed", **own, **more})


def count(settings: Diffusion, device: str = "cpu", clients: int = 1, more: Mapping[str, Value] = NOTHING) -> Need:
    found = needs(run(settings, **more), device, clients)
    assert found is not None
    return found


def held(*models: Any) -> int:
    """Bytes of weights."""
    return sum(p.numel() * p.itemsize for model in models for p in model.parameters())


@pytest.mark.long
def test_weights_are_those_that_are_loaded(settings: Diffusion) -> None:
    found, foundation = count(settings), load_foundation(settings, "cpu")
    whole, net, vae = (held(*models) for models in (foundation.models, [foundation.net], [foundation.pipe.vae]))
    assert found.drawing("cpu") == whole + found.picture and (found.net, found.vae) == (net, vae)
    assert found.drawing("cuda") == net + vae + max(whole - net - vae, found.picture)
    assert found.adapter == 4 * STATES * adapter_size(foundation.net, settings.rank, settings.targets)
    assert found.side == foundation.image_size and found.picture == picture_bytes(foundation.pipe.vae, found.side, 4, LEAST)
    half, wide = count(replace(settings, precision="fp16")), foundation.family.is_wide(foundation.pipe.vae)
    assert half.picture * (1 if wide else 2) == found.picture
    assert 2 * (half.drawing("cpu") - half.picture) == whole + (vae if wide else 0)
    assert wide == (not settings.foundation.endswith("/StableDiffusionPipeline"))


def test_private_steps_keep_a_part_and_each_image_s_gradient(settings: Diffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    private: dict[str, Value] = {"privacy": "dp-sgd", "dp-sgd.target-epsilon": 8.0}
    four, two = replace(settings, lora_batch_size=4), replace(settings, lora_batch_size=2)
    numbers = count(four).adapter // STATES
    whole, part = count(four, more=private), count(four, more={**private, "dp-sgd.chunk": 2})
    assert whole.kept == count(four).kept > part.kept == count(two).kept
    assert (whole.adapter, part.adapter) == tuple((STATES + n * SINGLE_STATES) * numbers for n in (4, 2))
    monkeypatch.setattr(module, "room", lambda *_: (whole.tuning("cpu") - 1, "this machine"))
    with pytest.raises(SettingError, match="lower dp-sgd.chunk or"):
        plan(run(four, **private), CPU, clients=4)
    assert plan(run(four, **private, **{"dp-sgd.chunk": 2}), CPU, clients=4)


@pytest.mark.long
def test_what_gradients_need_grows_with_the_batch_and_the_side(settings: Diffusion) -> None:
    one, two, three = (count(replace(settings, lora_batch_size=n)).kept for n in (2, 4, 6))
    assert three - two == two - one > 0
    small, middle, large = (count(replace(settings, image_size=side)).kept for side in (16, 32, 64))
    assert large - middle >= 4 * (middle - small) > 0, "a part that the text takes, and one for each pixel"
    assert count(replace(settings, gradient_checkpointing=True)).kept == 0


def test_it_is_the_count_of_the_net_alone(settings: Diffusion) -> None:
    foundation = load_foundation(settings, "cpu")
    if foundation.family.net == "unet" and len(foundation.family.encoders) == 1:
        known = footprint(foundation.net, settings, None, torch.float32, tokens=20)
        assert abs(count(settings).kept - known.activations) < 64  # time steps are numbers here and whole ones there


def test_a_gpu_tunes_without_the_parts_that_rest(settings: Diffusion) -> None:
    found = count(settings)
    assert found.tuning("cpu") - found.tuning("cuda") == found.vae + found.encoders > 0


def test_what_does_not_fit_is_refused_before_a_run(settings: Diffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "room", lambda *_: (count(settings).tuning("cpu") - 1, "this machine"))
    assert plan(run(settings), CPU, clients=0)
    with pytest.raises(
        SettingError, match="takes at least .* GB, and .* GB of this machine are free; set diffusion.gradient-chec"
    ):
        plan(run(settings), CPU, clients=4)


HOLLOWED: dict[str, Value] = {"diffusion.trainer": "hollowed", "hollowed.depth": 1}


def test_a_net_without_its_core_takes_less(settings: Diffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the count of hollowed tuning alone: a batch's size, at which tuning takes more than the whole foundation."""
    large, deep = replace(settings, lora_batch_size=64), replace(settings, trainer="hollowed")
    foundation, plain = load_foundation(settings, "cpu"), count(large)
    if foundation.family is not usual_family():
        assert needs(run(deep, **HOLLOWED), "cpu", 1) is None, "its check before the run says why it cannot be cut"
        return
    found, cut = count(large, more=HOLLOWED), cut_at(foundation.net, 1)
    known = footprint(foundation.net, large, cut, torch.float32, tokens=20)
    assert found.out == 4 * removed_weights(foundation.net, cut) and found.adapter == known.trained < plain.adapter
    assert abs(found.tuning("cpu") - known.total) < 1024 and found.tuning("cuda") == found.tuning("cpu") < plain.tuning("cuda")
    assert count(replace(settings, lora_batch_size=1), more=HOLLOWED).tuning("cuda") >= found.net, (
        "which is asked before it is cut"
    )
    mixed = {**HOLLOWED, "hollowed.depths": "1,-2"}
    assert count(large, clients=2, more=mixed) == plain and count(large, clients=1, more=mixed) == found
    monkeypatch.setattr(module, "room", lambda *_: (plain.tuning("cpu") - 1, "this machine"))
    assert f"{found.tuning('cpu') / 1e9:.1f} GB for an adapter" in plan(run(large, **HOLLOWED), CPU, clients=1)


def test_a_run_says_its_plan(settings: Diffusion) -> None:
    given = {"diffusion.foundation": settings.foundation, "diffusion.scheduler": "foundation", "device": "cpu"}
    lines = [line for line in outlook(parse(given), 4) if "takes at least" in line]
    assert len(lines) == 1 and "for an adapter (batches of 16)" in lines[0] and "at 32 pixels" in lines[0]


def test_the_card_with_least_free_memory_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that so many clients compute on; what somebody else holds there is not free."""
    free = {"cuda:0": 50, "cuda:1": 30, "cuda:2": 10}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda card: (free[str(card)], 80))
    three = replace(cards.TWO, count=lambda: 3, device=lambda number: torch.device("cuda", number))
    with placement.standing_in(three):
        found = [room(torch.device("cuda", 0), clients) for clients in (1, 2, 7, 0)]
    assert found == [(50, "cuda:0"), (30, "cuda:1"), (10, "cuda:2"), (10, "cuda:2")]


def test_the_embedded_one_and_names_elsewhere_have_no_plan(tmp_path: Path) -> None:
    for name in ("glyph", "owner/model"):
        assert plan(run(Diffusion(foundation=name)), CPU, clients=3) == ""

"""Every sampler: a fresh scheduler over the foundation's own noise, whose images are functions of their seeds alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from fedwarm.catalogue import parse
from fedwarm.diffusion.foundation import Foundation
from fedwarm.diffusion.sampling import make_scheduler, sample
from fedwarm.diffusion.settings import Diffusion
from fedwarm.settings.fields import SettingError
from fedwarm.settings.kinds import SAMPLERS
from fedwarm.settings.registry import summary

MINE = """
def euler(own):
    from diffusers import EulerDiscreteScheduler

    return EulerDiscreteScheduler.from_config(own.config)
"""
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning:diffusers"
)


@pytest.mark.parametrize("name", SAMPLERS.names())
def test_a_scheduler_is_fresh_and_keeps_the_foundations_noise(foundation: Foundation, name: str) -> None:
    own, made = foundation.pipe.scheduler, make_scheduler(foundation, name)
    assert made is not own and made is not make_scheduler(foundation, name) and summary(SAMPLERS.load(name))
    torch.testing.assert_close(made.alphas_cumprod, own.alphas_cumprod)
    assert made.config.prediction_type == own.config.prediction_type and not made.config.get("clip_sample", False)


@pytest.mark.parametrize("name", SAMPLERS.names())
def test_an_image_is_a_function_of_its_own_seed(foundation: Foundation, settings: Diffusion, name: str) -> None:
    chosen = dataclasses.replace(settings, scheduler=name)
    images = sample(foundation, ["one", "two", "one"], [5, 6, 7], chosen, 32)
    assert len({image.numpy().tobytes() for image in images}) == 3 and images.float().std() > 5
    assert torch.equal(sample(foundation, ["two", "one"], [6, 5], chosen, 32), images[[1, 0]])


def test_a_users_own_sampler(
    foundation: Foundation, settings: Diffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mysamplers.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    chosen = parse({"diffusion.scheduler": "mysamplers:euler"}).of(Diffusion)
    assert type(make_scheduler(foundation, chosen.scheduler)).__name__ == "EulerDiscreteScheduler"
    assert sample(foundation, ["one"], [5], dataclasses.replace(settings, scheduler=chosen.scheduler), 32).float().std() > 5
    with pytest.raises(SettingError, match="is not a known sampler .*did you mean ddim"):
        parse({"diffusion.scheduler": "ddimm"})

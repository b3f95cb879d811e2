"""Images that are encoded once, whatever ends the tuning; and models that rest while others work."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedwarm.diffusion.encoded import NAME
from fedwarm.diffusion.foundation import Foundation
from fedwarm.diffusion.midway import forget
from fedwarm.diffusion.offload import resting
from fedwarm.diffusion.settings import Diffusion
from fedwarm.diffusion.tuning import Examples, Tuning


@pytest.fixture
def tuning(foundation: Foundation, settings: Diffusion, pictures: tuple[Tensor, Tensor], sentences: list[str]) -> Tuning:
    return Tuning(foundation, *pictures, sentences, settings, 0, 0)


def broken(*_: Any) -> Any:
    raise AssertionError("encoded a second time")


def test_what_was_encoded_is_read(tuning: Tuning, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, first = Examples.of(tuning), Examples.of(tuning, tmp_path)
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600
    with monkeypatch.context() as patched:
        patched.setattr(Tuning, "latents", broken)
        again = Examples.of(tuning, tmp_path)
    for found in (first, again):
        assert torch.equal(found.latents, plain.latents) and torch.equal(found.context, plain.context)
    forget(tmp_path)
    assert not [*tmp_path.iterdir()]


def test_other_images_or_sentences_are_encoded_anew(tuning: Tuning, tmp_path: Path) -> None:
    Examples.of(tuning, tmp_path)
    other = dataclasses.replace(tuning, images=255 - torch.as_tensor(tuning.images))
    assert torch.equal(Examples.of(other, tmp_path).latents, Examples.of(other).latents)
    said = dataclasses.replace(tuning, prompts=[f"no {prompt}" for prompt in tuning.prompts])
    assert torch.equal(Examples.of(said, tmp_path).context, Examples.of(said).context)


class Recorder(nn.Module):
    """A model that notes where it is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def to(self, where: Any) -> Recorder:  # type: ignore[override]
        self.places.append(str(where))
        return self


def test_models_rest_in_the_hosts_memory() -> None:
    model = Recorder()
    with pytest.raises(KeyError), resting([model], torch.device("cuda", 1)):
        assert model.places == ["cpu"]
        raise KeyError
    assert model.places == ["cpu", "cuda:1"]
    with resting([model], torch.device("cpu")):
        pass
    assert len(model.places) == 2

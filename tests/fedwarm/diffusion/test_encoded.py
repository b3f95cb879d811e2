"""Images that are encoded once, whatever ends the tuning; and models that rest while others work."""

from __future__ import annotations

import dataclasses
import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedwarm.core.files import DiskError
from fedwarm.diffusion import rows
from fedwarm.diffusion import tuning as module
from fedwarm.diffusion.encoded import NAME, PIECES
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


def test_encoding_goes_on_where_it_ended(tuning: Tuning, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of five of 24 images: the third breaks off, and the same bits come of the last three."""
    monkeypatch.setattr(module, "TOGETHER", 5)
    monkeypatch.setattr(rows, "EVERY_SECONDS", 0.0)
    straight, plain, asked = Examples.of(tuning), Tuning.latents, list[int]()

    def ends(self: Tuning, images: Any, batch_size: int = 32) -> Tensor:
        asked.append(len(images))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return plain(self, images, batch_size)

    monkeypatch.setattr(Tuning, "latents", ends)
    with pytest.raises(KeyboardInterrupt):
        Examples.of(tuning, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {PIECES, f"{PIECES}.rows"}
    again = Examples.of(tuning, tmp_path)
    assert asked == [5, 5, 5, 5, 5, 4]
    assert torch.equal(again.latents, straight.latents) and again.latents.stride() == straight.latents.stride()
    assert {path.name for path in tmp_path.iterdir()} == {NAME}
    other = dataclasses.replace(tuning, seed=1)
    del asked[:]
    with pytest.raises(KeyboardInterrupt):
        Examples.of(other, tmp_path)
    del asked[:-1]
    assert torch.equal(Examples.of(tuning, tmp_path).latents, straight.latents), "what is whole stays until another is"
    forget(tmp_path)
    assert not [*tmp_path.iterdir()]


def test_a_full_disk_costs_a_warning(
    tuning: Tuning, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise DiskError(tmp_path, errno.ENOSPC)

    monkeypatch.setattr(module, "TOGETHER", 5)
    monkeypatch.setattr(rows, "EVERY_SECONDS", 0.0)
    monkeypatch.setattr(rows.Rows, "append", full)
    with caplog.at_level("WARNING", "fedwarm"):
        found = Examples.of(tuning, tmp_path)
    assert torch.equal(found.latents, Examples.of(tuning).latents)
    assert [line.partition(":")[0] for line in caplog.messages] == ["tuning that ends now would encode its images anew"]


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

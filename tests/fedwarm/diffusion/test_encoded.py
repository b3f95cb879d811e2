"""Images that are encoded once, whatever ends the tuning; and models that rest while others work."""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedwarm.core.files import DiskError
from fedwarm.core.progress import listening
from fedwarm.diffusion import rows
from fedwarm.diffusion import tuning as module
from fedwarm.diffusion.encoded import NAME, PIECES
from fedwarm.diffusion.families import usual_family
from fedwarm.diffusion.foundation import Foundation
from fedwarm.diffusion.midway import forget
from fedwarm.diffusion.offload import resting
from fedwarm.diffusion.settings import Diffusion
from fedwarm.diffusion.tuners.hollowed import tune
from fedwarm.diffusion.tuners.hollowed.settings import Hollowed
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


def test_each_part_is_on_a_card_while_it_works(tuning: Tuning, monkeypatch: pytest.MonkeyPatch) -> None:
    """By stand-ins on a device that is not there: encoders for sentences, and while originals are encoded no net."""
    net, vae, reader = Recorder(), Recorder(), Recorder()
    net.config = tuning.foundation.net.config  # type: ignore[assignment]
    pipe = SimpleNamespace(unet=net, vae=vae, text_encoder=reader, vae_scale_factor=4)
    card = Foundation(pipe, torch.device("cuda", 1), torch.float32, "")

    class Reads(type(usual_family())):  # type: ignore[misc]
        def embed(self, *_: Any) -> Tensor:
            assert reader.places[-1] == "cuda:1"
            return torch.zeros(1, 2, 3)

    card.__dict__["family"] = Reads()
    card.wake()
    assert (net.places, vae.places, reader.places) == (["cuda:1"], ["cuda:1"], [])
    assert card.embed(["a", "b"]).shape == (2, 2, 3) and reader.places == ["cuda:1", "cpu"]

    def latents(self: Tuning, images: Tensor, *_: int) -> Tensor:
        assert net.places[-1] == "cpu" and vae.places[-1] == "cuda:1"
        raise KeyError("as far as stand-ins go")

    monkeypatch.setattr(Tuning, "latents", latents)
    with pytest.raises(KeyError, match="as far as"):
        Examples.of(dataclasses.replace(tuning, foundation=card))
    assert net.places[-1] == "cuda:1"
    card.rest()
    assert net.places[-1] == vae.places[-1] == reader.places[-1] == "cpu"


@pytest.mark.parametrize("way", ["plain", "hollowed"])
def test_what_is_done_rests_while_an_adapter_is_tuned(
    tuning: Tuning, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    parts = {id(tuning.foundation.net): "net", id(tuning.foundation.pipe.vae): "vae"}
    seen: dict[str, set[str]] = {}
    away: list[str] = []

    @contextmanager
    def rest(modules: list[Any], _: torch.device) -> Iterator[None]:
        away.extend(parts[id(each)] for each in modules)
        yield
        del away[-len(modules) :]

    def latents(self: Tuning, *given: Any) -> Tensor:
        seen.setdefault("latents", set()).update(away)
        return plain(self, *given)

    plain = Tuning.latents
    monkeypatch.setattr(Tuning, "latents", latents)
    for place in (module, tune):
        monkeypatch.setattr(place, "resting", rest)
    with listening(lambda event: seen.setdefault(event.stage, set()).update(away)):
        if way == "plain":
            module.tune_adapter(tuning, folder=tmp_path)
        else:
            tune.tune_hollowed(tuning, Hollowed(depth=1), tmp_path)
    wanted = {"latents": {"net"}, "adapter": {"vae"}, **({"tuples": {"vae"}} if way == "hollowed" else {})}
    assert seen == wanted and not away


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

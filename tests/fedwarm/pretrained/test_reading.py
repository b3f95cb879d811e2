"""Files of weights: both formats, what is inside them, names on the Hub, and refusals that say what to do."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from fedwarm.pretrained.reading import tensors_of
from fedwarm.settings.fields import SettingError

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


def same(found: dict[str, Tensor]) -> bool:
    return found.keys() == STATE.keys() and all(torch.equal(found[name], STATE[name]) for name in STATE)


@pytest.mark.parametrize("inside", ["", "state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("old", [False, True])
def test_torchs_format(tmp_path: Path, inside: str, old: bool) -> None:
    held: Any = {inside: STATE, "epoch": 3, "optimizer": {"lr": 0.1}} if inside else STATE
    torch.save(held, tmp_path / "w.pt", _use_new_zipfile_serialization=not old)
    assert same(tensors_of(str(tmp_path / "w.pt")))


def test_the_format_goes_by_content_and_not_by_name(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "w.pth")
    assert same(tensors_of(str(tmp_path / "w.pth")))


def refusal(place: Path | str) -> str:
    with pytest.raises(SettingError) as error:
        tensors_of(str(place))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_no_file_of_tensors_is_refused(tmp_path: Path) -> None:
    assert "is no file" in refusal(tmp_path)
    (tmp_path / "text").write_text("no tensors")
    assert "neither a safetensors file nor one of torch.save" in refusal(tmp_path / "text")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    assert "holds more than tensors" in refusal(tmp_path / "module.pt")
    torch.save([torch.ones(1)], tmp_path / "list.pt")
    assert "no named tensors, but list" in refusal(tmp_path / "list.pt")
    torch.save({"epoch": 3, "w": torch.ones(1)}, tmp_path / "mixed.pt")
    assert "holds epoch, which are no tensors" in refusal(tmp_path / "mixed.pt")


def test_numbers_that_no_model_takes_are_refused(tmp_path: Path) -> None:
    torch.save({**STATE, "a.weight": torch.ones(2, 3, dtype=torch.complex64)}, tmp_path / "odd.pt")
    assert "holds a.weight as sparse, quantized or complex numbers" in refusal(tmp_path / "odd.pt")


@pytest.mark.parametrize("name", ["hub:a b/c", "hub:../x/y"])
def test_what_can_be_no_name_on_the_hub_is_refused(name: str) -> None:
    assert "names no model of the Hub" in refusal(name)


def test_no_code_of_a_file_is_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"state_dict": _Evil(marker)}, protocol=2))
    refusal(tmp_path / "evil.pt")
    assert not marker.exists()


class _Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (Path.touch, (self.marker,))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """A stand-in for the Hub's client: one repository with a file of each format; what was asked for."""
    import huggingface_hub

    asked: list[tuple[str, str]] = []
    save_file(STATE, tmp_path / "model.safetensors")
    torch.save(STATE, tmp_path / "best.pt")

    def download(repository: str, file: str) -> str:
        asked.append((repository, file))
        if repository != "somebody/net" or not (tmp_path / file).is_file():
            raise OSError(f"404: {repository}\n{file} is not there")
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repository, file: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr("fedwarm.pretrained.reading.hub_answers", lambda: True)
    return asked


@pytest.mark.parametrize(("place", "file"), [("hub:somebody/net", "model.safetensors"), ("hub:somebody/net/best.pt", "best.pt")])
def test_a_name_on_the_hub(hub: list[tuple[str, str]], place: str, file: str) -> None:
    assert same(tensors_of(place)) and hub == [("somebody/net", file)]


def test_the_hubs_refusals_are_told_in_one_line(hub: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "cannot be had from the Hub: 404: somebody/other pytorch_model.bin is not there" in refusal("hub:somebody/other")
    assert [file for _, file in hub] == ["model.safetensors", "pytorch_model.bin"]
    assert "give hub:owner/name" in refusal("hub:somebody")
    monkeypatch.setattr("fedwarm.pretrained.reading.hub_answers", lambda: False)
    assert "the Hub does not answer" in refusal("hub:somebody/net")


def test_what_the_hubs_client_has_kept_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    save_file(STATE, tmp_path / "kept.safetensors")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repository, file: str(tmp_path / "kept.safetensors"))
    monkeypatch.setattr("fedwarm.pretrained.reading.hub_answers", lambda: False)
    assert same(tensors_of("hub:somebody/net"))

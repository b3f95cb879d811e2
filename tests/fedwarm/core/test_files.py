"""Files: the same content is the same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fedwarm.core.files import order_metadata
from fedwarm.diffusion.lora import save_adapter

NOTES = {"b": 'ü \\ " \n \x07 /', "a": "", "format": "pt", **{f"key {i}": "x" * i for i in range(9)}}


def test_metadata_in_any_order_becomes_the_same_bytes(tmp_path: Path) -> None:
    tensors = {"w": torch.arange(6.0).reshape(2, 3), "v": torch.tensor([1, 2])}
    found = set()
    for i in range(8):
        save_file(tensors, tmp_path / f"{i}", metadata=NOTES)
        order_metadata(tmp_path / f"{i}")
        found.add((tmp_path / f"{i}").read_bytes())
    assert len(found) == 1
    with safe_open(tmp_path / "0", "pt") as file:
        assert file.metadata() == NOTES
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in load_file(tmp_path / "0").items())


def test_a_file_without_metadata_stays_as_it_is(tmp_path: Path) -> None:
    save_file({"w": torch.ones(3)}, tmp_path / "plain")
    before = (tmp_path / "plain").read_bytes()
    order_metadata(tmp_path / "plain")
    assert (tmp_path / "plain").read_bytes() == before


def test_a_header_that_would_change_its_length_is_left_alone(tmp_path: Path) -> None:
    text = b'{"__metadata__":{"a":"\\u00e9\\u00e9"}}'
    (tmp_path / "odd").write_bytes(len(text).to_bytes(8, "little") + text)
    order_metadata(tmp_path / "odd")
    with safe_open(tmp_path / "odd", "pt") as file:
        assert file.metadata() == {"a": "éé"}
    text = b'{"__metadata__":{"a":1e5}}'
    (tmp_path / "longer").write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(ValueError, match="cannot be put in order"):
        order_metadata(tmp_path / "longer")
    assert (tmp_path / "longer").read_bytes()[8:] == text


def test_an_adapter_is_the_same_file_each_time(tmp_path: Path) -> None:
    state = {f"base_model.model.down.{i}.to_q.lora_{part}.weight": torch.ones(2, 2) for i in range(3) for part in "AB"}
    files = [save_adapter(tmp_path / str(i), state, 2, 4.0, "to_q") for i in range(8)]
    assert len({file.read_bytes() for file in files}) == 1

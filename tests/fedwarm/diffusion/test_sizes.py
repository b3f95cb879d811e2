"""How large a foundation is, by its files alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from fedwarm.diffusion import sizes
from fedwarm.diffusion.foundation import Foundation
from fedwarm.diffusion.sizes import EXACT_ROWS, LARGE_ROWS, loaded_bytes, numbers_in, rows_in


def held(foundation: Foundation, part: str) -> int:
    return sum(tensor.numel() for tensor in getattr(foundation.pipe, part).state_dict().values())


def test_weights_are_counted_by_the_headers_of_files(pipeline_folder: Path, foundation: Foundation) -> None:
    counts = {part: numbers_in(pipeline_folder, part) for part in foundation.family.models}
    assert counts == {part: held(foundation, part) for part in counts}
    assert loaded_bytes(str(pipeline_folder)) == 4 * sum(counts.values())
    assert loaded_bytes("glyph") == loaded_bytes("owner/not-here") == 0


def test_halves_and_parts_of_files_are_counted(pipeline_folder: Path, foundation: Foundation, tmp_path: Path) -> None:
    own = Path(shutil.copytree(pipeline_folder, tmp_path / "own"))
    plain = own / "unet" / "diffusion_pytorch_model.safetensors"
    half = plain.with_suffix(".fp16.safetensors")
    plain.rename(half)
    assert numbers_in(own, "unet") == held(foundation, "unet")
    tensors = load_file(half)
    half.unlink()
    names = sorted(tensors)
    pieces = {"a.safetensors": names[:5], "b.safetensors": names[5:]}
    for name, own_names in pieces.items():
        save_file({each: tensors[each] for each in own_names}, own / "unet" / name)
    told = {"weight_map": {each: name for name, own_names in pieces.items() for each in own_names}}
    (own / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(told))
    assert numbers_in(own, "unet") == held(foundation, "unet")
    for text in ("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "\x02\0\0\0\0\0\0\0[]"):  # a pointer, another form
        (own / "unet" / "a.safetensors").write_text(text)
        with pytest.raises(ValueError, match="a.safetensors is no safetensors file"):
            numbers_in(own, "unet")
        assert loaded_bytes(str(own)) == 0 and rows_in(own) == EXACT_ROWS
    shutil.rmtree(own / "unet")
    assert loaded_bytes(str(own)) == 0 and rows_in(own) == EXACT_ROWS


def test_files_and_the_loaded_one_say_the_same_number_of_rows(
    pipeline_folder: Path, foundation: Foundation, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = held(foundation, "unet")
    for most, rows in ((own, EXACT_ROWS), (own - 1, LARGE_ROWS)):
        monkeypatch.setattr(sizes, "SMALL_NUMBERS", most)
        assert rows_in(pipeline_folder) == foundation.exact_rows == rows and foundation.small == (rows == EXACT_ROWS)

"""A pipeline's folder is loaded whole or refused by name: weights missing, unknown, in other files, of other libraries."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedwarm.diffusion import pipeline as module
from fedwarm.diffusion.families import usual_family
from fedwarm.diffusion.fingerprints import fingerprint
from fedwarm.diffusion.foundation import Foundation, load_foundation
from fedwarm.diffusion.pipeline import kept_in, read_pipeline, refuse_partial, see_weights, variant_of
from fedwarm.diffusion.settings import Diffusion
from fedwarm.settings.fields import SettingError

UNET, TEXT = "unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
Spoil = Callable[[Path], None]
Weights = dict[str, Tensor]


@pytest.fixture
def copy_of(pipeline_folder: Path, tmp_path: Path) -> Path:
    """The small pipeline's folder, to be spoiled."""
    return Path(shutil.copytree(pipeline_folder, tmp_path / "pipeline"))


def load(folder: Path | str) -> Foundation:
    return load_foundation(Diffusion(foundation=str(folder)), "cpu")


def _remove(name: str) -> Spoil:
    return lambda folder: (folder / name).unlink()


def _overwrite(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).write_bytes(b"not weights")

    return spoil


def _cut(folder: Path) -> None:
    whole = (folder / UNET).read_bytes()
    (folder / UNET).write_bytes(whole[: len(whole) // 2])


def _rewrite(name: str, change: Callable[[Weights], Weights]) -> Spoil:
    def spoil(folder: Path) -> None:
        weights = change(load_file(folder / name))
        (folder / name).unlink()
        save_file(weights, folder / name, metadata={"format": "pt"})

    return spoil


def _other_width(folder: Path) -> None:
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps({**config, "cross_attention_dim": 24}))


class Code:
    """What a pickle may do to whoever reads it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("ran"),)


def _code(stem: str, name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        torch.save({"weight": Code()}, (folder / name).parent / f"{stem}.bin")

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(_remove(UNET), id="no unet weights"),
        pytest.param(_remove("scheduler/scheduler_config.json"), id="no scheduler config"),
        pytest.param(_overwrite(UNET), id="unet is no safetensors"),
        pytest.param(_overwrite(TEXT), id="text encoder is no safetensors"),
        pytest.param(_cut, id="half a file"),
        pytest.param(_code("diffusion_pytorch_model", UNET), id="a pickled unet that runs code"),
        pytest.param(_code("pytorch_model", TEXT), id="a pickled text encoder that runs code"),
        pytest.param(_other_width, id="weights of another size"),
    ],
)
def test_a_broken_pipeline_is_refused_in_one_line(copy_of: Path, spoil: Spoil, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copy_of)
    spoil(copy_of)
    with pytest.raises(SettingError, match="could not be loaded") as caught:
        load(copy_of)
    assert str(copy_of) in str(caught.value) and "\n" not in str(caught.value) and not (copy_of / "ran").exists()


def _without(name: str) -> Callable[[Weights], Weights]:
    return lambda weights: {key: tensor for key, tensor in weights.items() if key != name}


def _renamed(weights: Weights) -> Weights:
    return {f"other.{key}": tensor for key, tensor in weights.items()}


def _more(weights: Weights) -> Weights:
    return {**weights, "extra.weight": torch.zeros(2)}


def _longer(name: str) -> Callable[[Weights], Weights]:
    return lambda weights: {**weights, name: torch.zeros(3, *weights[name].shape[1:])}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (UNET, _without("conv_in.weight"), r"of unet, conv_in\.weight is missing by diffusers [\d.]+; give the complete"),
        (VAE, _without("decoder.conv_in.bias"), r"of vae, decoder\.conv_in\.bias is missing by diffusers"),
        (TEXT, _without("final_layer_norm.bias"), r"of text_encoder, final_layer_norm\.bias is missing by transformers"),
        (UNET, _more, r"of unet, extra\.weight is unknown"),
        (VAE, _more, r"of vae, extra\.weight is unknown"),
        (TEXT, _more, r"of text_encoder, extra\.weight is unknown"),
        (TEXT, _renamed, r"20 weights are missing \(embeddings\.\w+\.weight, .*, \.\.\) and 20 weights are unknown \(other\."),
        (UNET, _longer("conv_in.weight"), r"of unet, conv_in\.weight is of another shape"),
        (TEXT, _longer("final_layer_norm.weight"), r"of text_encoder, final_layer_norm\.weight is of another shape"),
    ],
)
def test_weights_that_are_not_the_models_are_named(
    copy_of: Path, name: str, change: Callable[[Weights], Weights], message: str
) -> None:
    _rewrite(name, change)(copy_of)
    with pytest.raises(SettingError, match=message):
        load(copy_of)


def _prefixed(weights: Weights) -> Weights:
    length = len(weights["embeddings.position_embedding.weight"])
    positions = {"text_model.embeddings.position_ids": torch.arange(length)[None]}
    return {f"text_model.{key}": tensor for key, tensor in weights.items()} | positions


def _old_attention(weights: Weights) -> Weights:
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for key, tensor in weights.items():
        for new, old in names.items():
            key = key.replace(new, old) if "mid_block.attentions" in key else key
        renamed[key] = tensor
    assert set(renamed) != set(weights)
    return renamed


@pytest.mark.parametrize(("name", "change"), [(TEXT, _prefixed), (VAE, _old_attention)])
def test_names_of_old_versions_are_understood(
    copy_of: Path, foundation: Foundation, name: str, change: Callable[[Weights], Weights]
) -> None:
    """As Stable Diffusion 1.5 has them."""
    _rewrite(name, change)(copy_of)
    assert load(copy_of).fingerprint == foundation.fingerprint


TOLD: dict[str, Any] = {
    "missing_keys": {"text_model.a"}, "unexpected_keys": {"a"}, "mismatched_keys": set(), "error_msgs": []
}  # fmt: skip


def test_a_library_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """What transformers 5.0 to 5.5 say of a text encoder that 5.6 and later wrote: all is missing, and all is unknown."""
    wrong = r"of text_encoder, text_model\.a is missing and a is unknown by transformers"
    for have, remedy in (("5.5.4", "install transformers>=5.6"), ("4.57.1", "install"), ("5.10.0", "give the complete pipeline")):
        monkeypatch.setattr(module, "version", lambda _, have=have: have)
        with pytest.raises(SettingError, match=f"{wrong} {have}; {remedy}"):
            refuse_partial(TOLD, "text_encoder", "transformers", "x")


def test_the_version_in_the_message_is_the_bound_of_the_package() -> None:
    told = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    assert f"transformers>={module.LEAST_TRANSFORMERS}" in told["project"]["dependencies"]


def test_positions_are_no_weights() -> None:
    told: Mapping[str, Any] = {"missing_keys": [], "unexpected_keys": ["text_model.embeddings.position_ids"]}
    refuse_partial(told, "text_encoder", "transformers", "x")


@pytest.mark.parametrize("variant", ["fp16", "bf16"])
def test_variants_are_loaded_where_there_are_no_others(
    copy_of: Path, foundation: Foundation, sentences: list[str], variant: str
) -> None:
    for part in usual_family().models:
        plain = copy_of / part / f"{module.stem_of(part)}.safetensors"
        half = {name: tensor.half() for name, tensor in load_file(plain).items()}
        save_file(half, plain.with_suffix(f".{variant}.safetensors"), {"format": "pt"})
        plain.unlink()
    assert {variant_of(copy_of, part) for part in usual_family().models} == {variant}
    loaded = load(copy_of)
    assert {p.dtype for p in loaded.pipe.unet.parameters()} == {torch.float32}
    torch.testing.assert_close(loaded.embed(sentences), foundation.embed(sentences), rtol=1e-2, atol=1e-2)
    read = read_pipeline(copy_of, "half")  # in half the memory, and the same numbers in any precision
    for part in usual_family().models:
        ours, theirs = (dict(getattr(pipe, part).named_parameters()) for pipe in (read, loaded.pipe))
        assert {p.dtype for p in ours.values()} == {torch.float16}
        assert ours.keys() == theirs.keys() and all(torch.equal(p.float(), theirs[name]) for name, p in ours.items())
    assert fingerprint(read) == loaded.fingerprint


def test_the_precision_of_files_is_theirs_only_where_they_agree(tmp_path: Path) -> None:
    half, whole = {"a": torch.ones(2).bfloat16()}, {"b": torch.ones(2)}
    save_file(half, tmp_path / "model-00001-of-00002.safetensors")
    save_file(half, tmp_path / "model.fp16-00001-of-00001.safetensors")
    save_file(whole, tmp_path / "model.fp32.safetensors")
    assert [kept_in(tmp_path, v) for v in ("", "fp16", "fp32")] == [torch.bfloat16, torch.bfloat16, torch.float32]
    save_file(whole, tmp_path / "model-00002-of-00002.safetensors")
    assert kept_in(tmp_path, "") == torch.float32


def test_plain_weights_come_before_others(copy_of: Path, foundation: Foundation) -> None:
    (copy_of / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"not read")
    (copy_of / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"not read")
    assert load(copy_of).fingerprint == foundation.fingerprint


def test_pickled_weights_are_not_read_and_the_remedy_works(
    copy_of: Path, foundation: Foundation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for part in usual_family().models:
        plain = copy_of / part / f"{module.stem_of(part)}.safetensors"
        torch.save(load_file(plain), copy_of / part / ("pytorch_model.bin" if part == "text_encoder" else f"{plain.stem}.bin"))
        plain.unlink()
    with pytest.raises(
        SettingError, match=r"unet holds pickled weights only \(diffusion_pytorch_model\.bin\).* may run code"
    ) as told:
        load(copy_of)
    found = re.search(r'`python -c "(.*)"`, and give NEW', str(told.value))
    assert found is not None and str(copy_of) in str(told.value)
    monkeypatch.chdir(tmp_path)
    exec(found[1].replace("OLD", str(copy_of)))
    assert load(tmp_path / "NEW").fingerprint == foundation.fingerprint


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.onnx", "diffusion_pytorch_model.mine.safetensors"])
def test_other_files_are_named_with_what_is_needed(copy_of: Path, name: str) -> None:
    (copy_of / UNET).rename(copy_of / "unet" / name)
    with pytest.raises(SettingError, match=f"unet holds no weights but {name}; it needs diffusion_pytorch_model.safetensors or"):
        see_weights(copy_of, "unet", "x")


@pytest.mark.parametrize("entry", [["os", "system"], ["diffusers", "NoSuchModel"], [None, None], "unet"])
def test_models_of_other_libraries_are_not_asked_for(copy_of: Path, entry: Any) -> None:
    index = json.loads((copy_of / "model_index.json").read_text())
    (copy_of / "model_index.json").write_text(json.dumps({**index, "unet": entry}))
    with pytest.raises(SettingError, match=r"own classes: its unet is"):
        load(copy_of)

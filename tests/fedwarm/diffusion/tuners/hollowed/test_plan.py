"""Who trains which part: what the server expects by the settings, and what is refused before any work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fedwarm.catalogue import parse
from fedwarm.core.arrays import Arrays, from_tensors
from fedwarm.diffusion.foundation import Foundation
from fedwarm.diffusion.lora import first_matrices, targets_of
from fedwarm.diffusion.settings import Diffusion
from fedwarm.diffusion.tuners.hollowed.cuts import cut_at, cuts, table
from fedwarm.diffusion.tuners.hollowed.parts import HollowedParts
from fedwarm.diffusion.tuners.hollowed.plan import bare_unet, cut_of, outside, planned_cut
from fedwarm.diffusion.tuners.hollowed.settings import Hollowed
from fedwarm.diffusion.tuners.hollowed.tuner import HollowedTuner
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError, Value


@pytest.fixture(scope="module")
def whole(foundation: Foundation, settings: Diffusion) -> Arrays:
    return from_tensors(first_matrices(foundation, settings, 0, 0))


@pytest.fixture
def parts(foundation: Foundation, settings: Diffusion, whole: Arrays) -> Any:
    beside = {"classifier.weight": whole[next(iter(whole))]}

    def of(**hollowed: Any) -> HollowedParts:
        return HollowedParts(foundation, settings, whole, beside, Hollowed(**hollowed))

    return of


def test_a_client_sends_what_lies_outside_its_core(foundation: Foundation, whole: Arrays, parts: Any) -> None:
    found, unet = parts(depths="0,2,-2"), foundation.pipe.unet
    for client, depth in enumerate((0, 2, -2, 0)):
        kept = outside(cut_at(unet, depth), whole) if depth >= 0 else whole
        assert found.of(client).keys() == {*kept, "classifier.weight"}
        assert found.answered(client, found.of(client)) is found.of(client)
    assert found.union([0, 1]) is found.of(0) and found.union(range(3)) is found.whole


def test_each_cut_lies_in_the_next(foundation: Foundation, settings: Diffusion, whole: Arrays) -> None:
    """So the longest part of some clients holds the others."""
    kept = [outside(cut, whole).keys() for cut in cuts(foundation.pipe.unet, settings.targets)]
    assert len(kept) > 1 and all(b <= a for a, b in zip([whole.keys(), *kept], kept, strict=False))


def test_another_depth_s_names_are_told_from_spoilt_ones(whole: Arrays, parts: Any) -> None:
    found = parts(depths="0,2,-2")
    for client, names, depth in ((0, found.of(1), 2), (1, found.of(0), 0), (0, found.of(2), -2), (2, found.of(0), 0)):
        with pytest.raises(ValueError, match=f"is that of depth {depth}; client {client} has depth"):
            found.answered(client, names)
    spoilt = list(found.of(0))[1:]
    assert found.answered(0, spoilt) is found.of(0)  # whose check names the missing array


def test_a_budget_leaves_the_depth_to_the_client(foundation: Foundation, settings: Diffusion, parts: Any) -> None:
    found = parts(memory_budget_mb=10)
    assert found.of(0) is found.whole and found.union(range(4)) is found.whole
    for row in table(foundation.pipe.unet, settings.rank, settings.targets):
        names = outside(row.cut, found.whole)
        assert sum(a.size for n, a in found.answered(0, names).items() if "lora_" in n) == row.adapter
    for names in (found.whole, list(found.whole)[2:], []):
        with pytest.raises(ValueError, match="are those of no depth"):
            found.answered(0, names)


@pytest.mark.parametrize(("rule", "counts"), [("union", (0, 1, 2)), ("intersect", (1, 1, 1)), ("zero_fill", (2, 2, 2))])
def test_what_images_are_drawn_from(rule: str, counts: tuple[int, ...], whole: Arrays, settings: Diffusion, parts: Any) -> None:
    found = parts(depths="0,2,-2", mixed=rule)
    sent = {client: {n: a for n, a in found.of(client).items() if n in whole} for client in (0, 1, 2)}
    sizes = [len(adapter) for adapter in sent.values()]
    used = found.used(sent)
    assert [len(used[client]) for client in sent] == [sizes[i] for i in counts]
    for client, adapter in used.items():
        told = found.attaching(adapter).targets
        assert told == (settings.targets if len(adapter) == len(whole) else targets_of(adapter)), client


# Before a run


def planned(folder: Path | str, **given: Value) -> Config:
    named = {f"hollowed.{name.replace('_', '-')}": value for name, value in given.items()}
    return parse({"method": "warmfed", "diffusion.trainer": "hollowed", "diffusion.foundation": str(folder), **named})


@pytest.mark.long
def test_the_configuration_alone_gives_the_same_cuts(foundation: Foundation, settings: Diffusion, pipeline_folder: Path) -> None:
    bare = bare_unet(str(pipeline_folder))
    assert {p.device.type for p in bare.parameters()} == {"meta"}
    for hollowed in (Hollowed(), Hollowed(depth=2), Hollowed(depth=-2), Hollowed(memory_budget_mb=3)):
        assert planned_cut(bare, settings, hollowed, 0, foundation.dtype) == cut_of(foundation, settings, hollowed, 0)


def test_what_fits_passes_and_the_hub_is_left_to_the_loader(pipeline_folder: Path) -> None:
    check(planned(pipeline_folder, depths="0,1,-2"), 3)
    check(planned("glyph", depth=3), 4)
    check(planned("owner/model", depth=40), 4)


def check(config: Config, clients: int) -> None:
    HollowedTuner(config).check_before(clients)


REFUSED: list[tuple[dict[str, Value], str]] = [
    ({"depth": 40}, "hollowed depth 40 is out of range for this U-Net; it must be 0 to"),
    ({"depths": "0,40"}, "hollowed depth 40 is out of range"),
    ({"depths": "0,-3"}, "is not a list of depths"),
    ({"depth": 2, "cache": "residual"}, "set hollowed.cache = 'output'"),
    ({"memory_budget_mb": 1}, "hollowed.memory-budget-mb = 1 is"),
]


@pytest.mark.parametrize(("given", "why"), REFUSED)
def test_what_cannot_be_cut_so_is_refused_in_one_line(given: dict[str, Value], why: str) -> None:
    with pytest.raises(SettingError, match=why) as caught:
        check(planned("glyph", **given), 4)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("more", [{"num_class_embeds": 3}, {"class_embed_type": "timestep"}])
def test_a_net_that_wants_to_know_more_than_a_sentence_is_refused(pipeline_folder: Path, tmp_path: Path, more: Any) -> None:
    shutil.copytree(pipeline_folder, tmp_path / "own")
    config = json.loads((tmp_path / "own" / "unet" / "config.json").read_text())
    (tmp_path / "own" / "unet" / "config.json").write_text(json.dumps({**config, **more}))
    with pytest.raises(SettingError, match=f"more inputs than noise, time and a prompt: {next(iter(more))}; use"):
        check(planned(tmp_path / "own"), 2)


def test_a_depth_that_no_client_has_is_not_asked_for() -> None:
    check(planned("glyph", depths="0,2,40"), 2)


def test_transformers_are_refused_with_the_reason(pipeline_folder: Path, tmp_path: Path) -> None:
    flux = tmp_path / "flux"
    flux.mkdir()
    index = {"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"]}
    (flux / "model_index.json").write_text(json.dumps(index))
    other = tmp_path / "other"
    shutil.copytree(pipeline_folder, other)
    config = json.loads((other / "unet" / "config.json").read_text())
    (other / "unet" / "config.json").write_text(json.dumps({**config, "_class_name": "DiTTransformer2DModel"}))
    for folder, kind in ((flux, "FluxTransformer2DModel"), (other, "DiTTransformer2DModel")):
        with pytest.raises(SettingError, match=f"cannot cut a {kind}: .* a transformer has none") as caught:
            check(planned(folder), 2)
        assert "\n" not in str(caught.value)


def test_what_is_no_pipeline_is_the_loader_s_to_tell(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="is not a Stable Diffusion pipeline"):
        check(planned(tmp_path), 2)

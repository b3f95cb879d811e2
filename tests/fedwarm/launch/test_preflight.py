"""What is checked before any work: settings that contradict each other are told before data are looked for."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fedwarm.catalogue import parse
from fedwarm.codecs.dp_rec.settings import DpRec
from fedwarm.diffusion.foundation import asset_folder
from fedwarm.launch.preflight import check_run
from fedwarm.rounds.objectives import check_private_model
from fedwarm.settings.fields import SettingError, Value

CONTRADICTIONS: list[tuple[dict[str, Value], str]] = [
    ({"dp-rec.view": "central_certified", "dp-rec.downlink": "replay"}, "use dense"),
    ({"dp-rec.block-rule": "per_tensor", "dp-rec.rotation": "hadamard"}, "use none or auto"),
    ({"dp-rec.block-rule": "kl_adaptive", "dp-rec.block-size": 4}, "it must be 0"),
    ({"dp-rec.view": "central_limit", "dp-rec.adjacency": "replacement"}, "choose zero_out"),
]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """The check leaves one torch thread; what was before comes back."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("settings", "message"), CONTRADICTIONS)
@pytest.mark.parametrize("name", ["dp_rec", "dp-rec"])
def test_contradictions_are_told_first(name: str, settings: dict[str, Value], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        check_run({"method": name, "data.name": "/no/such/folder", **settings}, 2)


def test_they_concern_nobody_else() -> None:
    every = {key: value for settings, _ in CONTRADICTIONS for key, value in settings.items()}
    config, clients = check_run({"method": "fedavg", **every}, 2)
    assert config.run.method == "fedavg" and clients == 2


def test_what_goes_together_passes() -> None:
    settings: dict[str, Value] = {"dp-rec.view": "central_certified", "dp-rec.block-rule": "per_tensor", "dp-rec.bits": 4}
    config, clients = check_run({"method": "dp_rec", **settings}, 3)
    assert (config.of(DpRec).bits, clients) == (4, 3)


OBJECTIVES: list[tuple[dict[str, Value], str]] = [
    ({"objective": "qat", "quantization-robust.start-round": 4}, "'qat' begins after the last of 3 rounds; lower .*start-round"),
    (
        {"objective": "kure", "quantization-robust.kure-warmup": 3},
        "'kure' begins after the last of 3 rounds; lower .*kure-warmup",
    ),
    ({"objective": "mqat", "quantization-robust.range": "learned"}, "range = 'learned' is for qat, not for mqat"),
    ({"method": "local_only", "objective": "rq"}, "method 'local_only' .*does not average them: take one of fedavg"),
    ({"method": "warmfed", "objective": "rq"}, "method 'warmfed' .*does not average them"),
]


@pytest.mark.parametrize(("settings", "message"), OBJECTIVES)
def test_objectives_that_would_change_nothing_or_break_are_told_first(settings: dict[str, Value], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        check_run({"method": "fedavg", "num-server-rounds": 3, **settings}, 2)


HOLLOWED: list[tuple[dict[str, Value], str]] = [
    ({"hollowed.depth": 9}, "hollowed depth 9 is out of range for this U-Net; it must be 0 to 3"),
    ({"hollowed.depths": "0,9"}, "hollowed depth 9 is out of range"),
    ({"hollowed.depths": "0;2"}, "is not a list of depths; write e.g. '0,2,-2'"),
    ({"privacy": "dp-sgd"}, "privacy = 'dp-sgd' does not cover diffusion.trainer = 'hollowed'"),
    ({"hollowed.depths": "0,2", "codec": "dp-rec"}, "codec = 'dp-rec' accounts for adapters of one size"),
]


@pytest.mark.parametrize(("settings", "message"), HOLLOWED)
def test_hollowed_tuning_that_cannot_be_is_told_first(settings: dict[str, Value], message: str) -> None:
    given: dict[str, Value] = {"method": "warmfed", "diffusion.trainer": "hollowed", **settings}
    with pytest.raises(SettingError, match=message) as caught:
        check_run(given, 2)
    assert "\n" not in str(caught.value)
    unused: list[dict[str, Value]] = [{"warmfed.adapt": False}, {"warmfed.synthetic-ratio": 0.0}, {"diffusion.trainer": "lora"}]
    for change in [*unused, {"method": "fedavg"}]:
        check_run({**given, **change}, 2)


@pytest.mark.parametrize(
    "own", [{"objective": "rq"}, {"objective": "mqat", "quantization-robust.quantize-activations": True}], ids=["rq", "inputs"]
)
def test_an_objective_that_private_steps_do_not_cover_is_refused(own: dict[str, Value]) -> None:
    with pytest.raises(SettingError, match="does not cover"):
        check_run({"method": "fedavg", "privacy": "dp-sgd", **own}, 2)
    check_run({"method": "fedavg", "privacy": "dp-sgd", "objective": "mqat"}, 2)


@pytest.mark.parametrize("method", ["warmfed", "gen_fedsd"])
def test_a_foundation_that_cannot_be_had_is_told_first(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedwarm.diffusion.hub.hub_answers", lambda: False)
    with pytest.raises(SettingError, match="'nobody/at-all' could not be loaded: the Hub does not answer"):
        check_run({"method": method, "diffusion.foundation": "nobody/at-all"}, 2)
    glyph = asset_folder("glyph")
    assert glyph is not None
    folder = Path(shutil.copytree(glyph, tmp_path / "glyph"))
    (folder / "vae" / "diffusion_pytorch_model.safetensors").rename(folder / "vae" / "model.ckpt")
    with pytest.raises(SettingError, match="vae holds pickled weights only .model.ckpt., which are not read"):
        check_run({"method": method, "diffusion.foundation": str(folder)}, 2)


def test_a_model_that_private_steps_do_not_cover_is_refused_before_work() -> None:
    """Where a run trains none of its own, as one that tunes adapters only, batch statistics harm nobody's privacy."""
    private: dict[str, Value] = {"privacy": "dp-sgd", "model.name": "resnet8", "model.norm": "batch", "data.image-size": 16}
    with pytest.raises(SettingError, match="dp-sgd cannot train layer '1'.*use model.norm='group'"):
        check_run({"method": "fedavg", **private}, 2)
    check_run({"method": "fedavg", **private, "privacy": "none"}, 2)
    check_run({"method": "fedavg", **private, "model.norm": "own"}, 2)
    check_private_model(parse({"method": "warmfed", **private}), 10)


def test_a_fault_at_a_client_that_is_not_there_is_told_first() -> None:
    with pytest.raises(SettingError, match=r"faults.clients = '1,7' names client 7; there are 0 to 2"):
        check_run({"method": "fedavg", "faults.kind": "nan", "faults.clients": "1,7"}, 3)
    check_run({"method": "fedavg", "faults.kind": "nan", "faults.clients": "1,2"}, 3)


def test_what_a_method_refuses_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr("fedwarm.methods.scaffold.hidden", asked.append)
    check_run({"method": "scaffold", "data.max-examples": 24, "data.image-size": 8}, 2)
    assert len(asked) == 1

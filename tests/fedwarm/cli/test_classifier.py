"""The classifier of public images: what it learns from, what it says of itself, and runs that begin with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fedwarm.catalogue import parse
from fedwarm.cli.classifier import Wanted, train_classifier
from fedwarm.core import placement
from fedwarm.data.provenance import PUBLIC
from fedwarm.diffusion.pretraining.classifier import renders
from fedwarm.diffusion.pretraining.untrained import EMBEDDED_RECIPE
from fedwarm.launch.preflight import check_run
from fedwarm.models import Model, build_model
from fedwarm.rounds.artefacts import sources, unknown
from fedwarm.settings.fields import SettingError
from tests import cards
from tests.runs import run, same

SMALL = ("model.name='logistic' data.image-size=8 learning-rate=0.05",)


@pytest.fixture(autouse=True)
def _few_hands(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand handwritings take seconds."""
    monkeypatch.setattr("fedwarm.diffusion.pretraining.classifier.EMBEDDED_RECIPE", replace(EMBEDDED_RECIPE, hands=3))


def test_renders_are_a_function_of_the_seed_at_any_size() -> None:
    images, labels = renders(40, 8, 3)
    assert images.shape == (40, 3, 8, 8) and images.dtype == torch.uint8
    assert torch.equal(images, renders(40, 8, 3)[0]) and not torch.equal(images, renders(40, 8, 4)[0])
    assert set(labels.tolist()) <= set(range(10)) and len(set(labels.tolist())) > 5


def test_it_learned_from_no_data_set_and_runs_begin_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "public.safetensors"
    train_classifier(Wanted(file, SMALL, 600, 2))
    assert "600 digits of fonts and pen, accuracy 0." in capsys.readouterr().out
    assert sources(file) == []
    flat = {"method": "local_only", "model.name": "logistic", "data.image-size": 8, "model.weights": str(file)}
    assert unknown(parse(flat)) == []
    begun = {**flat, "method": "fedavg", "num-server-rounds": 1, "local-epochs": 1, "data.max-examples": 8, "learning-rate": 1e-9}
    outcome = run("fedavg", tmp_path / "run", begun, clients=2)
    kept = load_file(file)
    assert all(torch.allclose(torch.from_numpy(array), kept[name], atol=1e-6) for name, array in outcome.model.items())


def test_adapters_are_in_its_weights(tmp_path: Path) -> None:
    file = tmp_path / "public.safetensors"
    train_classifier(Wanted(file, ("model.name='lenet5' model.train='lora' data.image-size=16",), 60, 1))
    assert load_file(file).keys() == build_model(Model(name="lenet5"), 10, 16, 0).state_dict().keys()


def test_it_trains_where_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a card that stands for a GPU."""
    on: list[torch.device] = []

    def device(number: int) -> torch.device:
        on.append(torch.device("cpu", number))
        return on[-1]

    with placement.standing_in(replace(cards.TWO, device=device, hears=placement._deaf)):
        train_classifier(Wanted(tmp_path / "a.safetensors", SMALL, 60, 1, device="cuda"))
    assert on
    on.clear()
    train_classifier(Wanted(tmp_path / "b.safetensors", SMALL, 60, 1))
    assert not on and same(*({n: t.numpy() for n, t in load_file(tmp_path / f"{x}.safetensors").items()} for x in "ab"))
    with pytest.raises(SettingError, match="no CUDA device"):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        train_classifier(Wanted(tmp_path / "c.safetensors", SMALL, 60, 1, device="cuda"))


def test_of_a_public_part_it_says_which_images_these_are(tmp_path: Path) -> None:
    file, again = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for each in (file, again):
        train_classifier(Wanted(each, (*SMALL, "data.public-share=0.2"), epochs=1))
    (source,) = sources(file) or []
    assert source.part == PUBLIC and source.data.public_share == 0.2
    assert same({n: t.numpy() for n, t in load_file(file).items()}, {n: t.numpy() for n, t in load_file(again).items()})
    flat = {"method": "fedavg", "model.name": "logistic", "data.image-size": 8, "model.weights": str(file)}
    check_run({**flat, "data.public-share": 0.2}, 4)
    with pytest.raises(SettingError, match="was trained on .* test images of this run"):
        check_run(flat, 4)


def test_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="must be a file's name that ends with .safetensors"):
        train_classifier(Wanted(tmp_path / "x.pt"))

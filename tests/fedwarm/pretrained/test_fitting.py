"""A file's names brought to a model's, and what does not fit told by name."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fedwarm.pretrained.fitting import fitting, renamed
from fedwarm.settings.fields import SettingError

HEAD = ("2.weight", "2.bias")


def state(classes: int = 3, seed: int = 0) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, classes)).state_dict()


def own() -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state(seed=1).items() if not name.endswith("num_batches_tracked")}


@pytest.mark.parametrize("prefix", ["", "module.", "module.model.", "_orig_mod."])
def test_common_prefixes_and_counters_are_left_out(prefix: str) -> None:
    found = fitting({prefix + name: tensor for name, tensor in state().items()}, own(), HEAD, None)
    assert found.keys() == own().keys() and all(torch.equal(found[name], state()[name]) for name in found)


def test_what_an_objective_learned_beside_a_model_is_left_out_and_told() -> None:
    told: list[str] = []
    found = fitting({"quantizer/0.weight.log_step": torch.ones(1), **own()}, own(), HEAD, told.append)
    assert found.keys() == own().keys()
    assert told == ["model.weights also has quantizer/0.weight.log_step, learned beside the model; this run begins without"]


def test_names_without_a_common_prefix_stay() -> None:
    mixed = {"module.a": torch.ones(1), "b": torch.ones(1)}
    assert renamed(mixed, {"a": torch.ones(1)}) == mixed


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_a_backbone_without_head_gets_the_models_own(prefix: str) -> None:
    told: list[str] = []
    found = fitting({prefix + n: t for n, t in state().items() if n not in HEAD}, own(), HEAD, told.append)
    assert all(torch.equal(found[name], (own() if name in HEAD else state())[name]) for name in own())
    assert told == ["model.weights has no head: all is taken from it but 2.weight and 2.bias, which start at random"]


def test_a_head_of_another_name_is_no_head() -> None:
    found = {name: tensor for name, tensor in state().items() if name not in HEAD} | {"fc.weight": torch.ones(9, 5)}
    told: list[str] = []
    assert fitting(found, own(), HEAD, told.append).keys() == own().keys() and len(told) == 1


def test_what_does_not_fit_is_told_by_name() -> None:
    found = {name: tensor for name, tensor in state().items() if name != "0.bias"} | {"extra.weight": torch.ones(1)}
    found["1.weight"] = torch.ones(7)
    with pytest.raises(SettingError) as error:
        fitting(found, own(), HEAD, None)
    text = str(error.value)
    assert "it lacks 0.bias; it has extra.weight, which the classifier has not; " in text
    assert "1.weight has shape (7), and the classifier's is (5)" in text and "\n" not in text


def test_many_names_are_counted() -> None:
    with pytest.raises(SettingError, match=r"it lacks 0.weight, 0.bias, 1.weight, 1.bias, 1.running_mean and 3 more"):
        fitting({"other": torch.ones(1)}, own(), HEAD, None)

"""Adapters beside layers of one's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fedwarm.models import Model, own_settings_of
from fedwarm.scopes.lora import Lora, lora
from fedwarm.settings.fields import SettingError

HEAD = ("1.weight", "1.bias")


def adapted(body: nn.Module) -> nn.Module:
    model = nn.Sequential(body, nn.Linear(16, 2))
    lora(model, HEAD, Lora(rank=2))
    for name, parameter in model.named_parameters():
        if name.endswith("lora_up"):
            nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    return model


def test_a_layer_whose_weight_is_computed_has_no_adapter() -> None:
    weighed = nn.utils.spectral_norm(nn.Linear(16, 16))
    names = adapted(nn.Sequential(weighed, nn.Linear(16, 16))).state_dict().keys()
    assert {name for name in names if "lora" in name} == {"0.1.lora_down", "0.1.lora_up"}


def test_a_model_that_is_its_own_head_has_nothing_to_adapt() -> None:
    with pytest.raises(SettingError, match="finds no linear layer or convolution"):
        lora(nn.Linear(16, 16), ("weight", "bias"), Lora(rank=2))


def test_its_settings_are_none_of_the_architecture() -> None:
    assert own_settings_of(Model(train="lora", own_settings=(Lora(rank=2),))) == {}


def test_attention_answers_alike_by_its_fast_path() -> None:
    """In evaluation without gradients torch reads the layers' weights and not their answers."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    model, inputs = adapted(layer).eval(), torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(model(inputs), model.train()(inputs), atol=1e-5)

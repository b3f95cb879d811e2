"""Which tensors are biases, in layers that have several."""

from __future__ import annotations

from torch import nn

from fedwarm.scopes.bias import bias


def trained(body: nn.Module) -> set[str]:
    model = nn.Sequential(body, nn.Linear(4, 2))
    bias(model, ("1.weight", "1.bias"))
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad} - {"1.weight", "1.bias"}


def test_layers_of_several_biases_have_all_of_them_trained() -> None:
    assert trained(nn.GRU(4, 4)) == {"0.bias_ih_l0", "0.bias_hh_l0"}
    assert trained(nn.MultiheadAttention(4, 2)) == {"0.in_proj_bias", "0.out_proj.bias"}
    assert trained(nn.Sequential(nn.Embedding(4, 4), nn.LayerNorm(4))) == {"0.1.bias"}

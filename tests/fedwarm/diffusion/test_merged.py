"""Merged adapters: the same net and the same gradients as with peft's products beside its layers, and no trace afterwards."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fedwarm.diffusion.foundation import Foundation
from fedwarm.diffusion.lora import adapter_state, attached, first_matrices, load_adapter
from fedwarm.diffusion.merged import Stacks, drawing, learning, merges
from fedwarm.diffusion.settings import Diffusion

Fill = Callable[[dict[str, Tensor]], dict[str, Tensor]]
Inputs = tuple[Tensor, Tensor, Tensor]


@pytest.fixture(scope="module")
def adapter(foundation: Foundation, settings: Diffusion, random_adapter: Fill) -> dict[str, Tensor]:
    return random_adapter(first_matrices(foundation, settings, 0, 0))


@pytest.fixture(scope="module")
def inputs(foundation: Foundation, sentences: list[str]) -> Inputs:
    draws = torch.Generator().manual_seed(0)
    noisy = torch.randn(3, 4, foundation.latent_size, foundation.latent_size, generator=draws)
    return noisy, torch.tensor([10, 400, 900]), foundation.embed(sentences[:3])


def test_what_learns_merged_says_and_learns_what_peft_does(
    foundation: Foundation, settings: Diffusion, adapter: dict[str, Tensor], inputs: Inputs
) -> None:
    net = copy.deepcopy(foundation.net).double()  # in float32 the two sums differ by what the processor makes of them
    noisy, times, sentences = inputs
    exact, given = {name: matrix.double() for name, matrix in adapter.items()}, (noisy.double(), times, sentences.double())
    with attached(net, settings, 0, "merged"):
        load_adapter(net.double(), exact)
        said = net(*given).sample
        said.square().mean().backward()
        gradients = {name.replace(".fedwarm", ""): p.grad for name, p in net.named_parameters() if p.grad is not None}
    stacks = Stacks(net, settings, exact)
    ours = stacks(*given).sample
    ours.square().mean().backward()
    assert torch.allclose(ours, said, rtol=0.0, atol=1e-11)
    assert len(gradients) == len(adapter) and all(p.grad is None for p in net.parameters())
    values = [p.detach().clone() for p in stacks.parameters]
    for parameter in stacks.parameters:
        assert parameter.grad is not None
        parameter.data = parameter.grad
    for name, gradient in stacks.state().items():
        expected = gradients[name]
        assert expected is not None and torch.allclose(gradient, expected, rtol=0.0, atol=1e-11 * float(expected.abs().max()))
    for parameter, value in zip(stacks.parameters, values, strict=True):
        parameter.data = value
    assert all(torch.equal(stacks.state()[name], exact[name]) for name in exact)


def test_it_begins_at_the_first_matrices(foundation: Foundation, settings: Diffusion) -> None:
    first = first_matrices(foundation, settings, 3, 1)
    for apart in (False, True):
        with learning(foundation, settings, 3, 1, apart) as (_, parameters, matrices):
            assert sum(p.numel() for p in parameters) == sum(t.numel() for t in first.values())
            assert matrices().keys() == first.keys() and all(torch.equal(matrices()[name], first[name]) for name in first)


def test_a_net_that_draws_merged_is_as_before_whatever_happens(
    foundation: Foundation, settings: Diffusion, adapter: dict[str, Tensor], digest: Callable[[nn.Module], str]
) -> None:
    before = digest(foundation.net)
    with pytest.raises(KeyboardInterrupt), drawing(foundation.net, settings, adapter):
        assert digest(foundation.net) != before
        raise KeyboardInterrupt
    assert digest(foundation.net) == before
    name = next(iter(adapter))
    for wrong in ({n: t for n, t in adapter.items() if n != name}, adapter | {name: torch.zeros(1, 1)}):
        with pytest.raises(ValueError, match="does not fit this foundation"), drawing(foundation.net, settings, wrong):
            raise AssertionError("it was attached")
    assert digest(foundation.net) == before


def test_what_rounds_more_or_is_large_keeps_its_products_apart(
    foundation: Foundation, settings: Diffusion, adapter: dict[str, Tensor]
) -> None:
    assert merges(foundation.net, settings)
    half = nn.ModuleDict({"to_q": nn.Linear(8, 8).bfloat16()})
    large = nn.ModuleDict({"to_q": nn.Linear(2048, 2049, device="meta")})
    own = replace(settings, targets="to_q")
    assert not merges(half, own) and not merges(large, own) and merges(nn.ModuleDict({"to_q": nn.Linear(8, 8)}), own)
    with learning(foundation, settings, 0, 0, apart=True) as (net, _, matrices):
        assert net is foundation.net and matrices().keys() == adapter_state(net).keys()

"""Subnetworks: what of them is trained."""

from __future__ import annotations

import torch
from torch import nn

from fedwarm.core.arrays import from_module
from fedwarm.partitioned.masks import Layout
from fedwarm.partitioned.networks import Subnetwork
from fedwarm.partitioned.psi import Psi


def test_what_a_network_keeps_as_it_is_stays_so() -> None:
    """As in any other method."""
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    net[0].requires_grad_(False)
    layout = Layout.drawn(from_module(net), (0.5, 0.5), 0)
    made = Subnetwork(net, layout.mask(1), Psi((), (4,)), torch.zeros(0), torch.Generator())
    made(torch.ones(1, 4)).sum().backward()
    for name, own in zip(made.places, made.own, strict=True):
        assert (own.grad is None) == name.startswith("0.")

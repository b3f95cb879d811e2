"""FedGELA: Fan, Zhang, Yao, Han, Zhang, Wang, "Federated Learning with Bilateral Curation for Partially Class-Disjoint Data",
NeurIPS 2023, arXiv 2405.18972.

Clients hold some of the classes. The head is a simplex that nobody trains, so that all classes have as much room and no client
moves those that it has no examples of; each client scales its own outputs to the classes that it holds. The scale is the one of
the authors' code. Features of length 1 with tau = .1, and answers among a client's own classes alone, are readings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedwarm.heads import fixed
from fedwarm.methods import Method
from fedwarm.models import Model, head_layer, head_of
from fedwarm.settings.config import Config
from fedwarm.settings.fields import Group, SettingError, setting
from fedwarm.settings.kinds import HEADS, PRIVACY
from fedwarm.training.sizes import layers_of

MASKED, NEVER = "masked", -1e4  # what a masked class's output is, before a softmax in float32


@dataclass(frozen=True)
class FedGela(Group, prefix="fedgela"):
    """Settings of FedGELA."""

    local: bool = setting(
        True, "scale a client's outputs by its share of each class, in training and in its own model; false: FedAvg with the "
        "fixed head"
    )  # fmt: skip
    absent: str = setting(
        "kept", "classes that a client has no examples of, where its own model is measured; kept: they may be answered, by an "
        "output of 0; masked: they are not", choices=("kept", MASKED), when=lambda r: bool(r["fedgela.local"]),
    )  # fmt: skip

    def own(self, state: Mapping[str, Tensor], head: tuple[str, str], shares: Tensor) -> dict[str, Tensor]:
        """A client's own model: the state of the global one with E_c W_c in the place of each row of the head.

        Args:
            state: of the global model.
            head: the names of W (C, d) and of the head's bias (C,), empty where it has none.
            shares: E (C,).
        """
        weight, bias = head
        found = {**state, weight: scaled(state[weight], shares)}
        if self.absent == MASKED:
            found[bias] = state[bias].masked_fill((shares == 0).to(state[bias].device), NEVER)
        return found


def head_in(settings: Model, model: nn.Module) -> tuple[str, str]:
    """The names of the head's weight and of its bias, empty where it has none, in a model that was built by these settings."""
    layer = head_layer(settings, model)
    return f"{layer}.weight", f"{layer}.bias" if f"{layer}.bias" in head_of(settings, model) else ""


def shares_of(labels: Tensor, classes: int) -> Tensor:
    """E_c = C n_c / n of labels (n,): 0 of a class without examples, 1 of all where they are equally many; sums to C."""
    counts = torch.bincount(labels.cpu(), minlength=classes)
    return (classes * counts).double() / max(1, len(labels))


def scaled(weight: Tensor, shares: Tensor) -> Tensor:
    """Rows E_c W_c."""
    return weight * shares.to(weight)[:, None]


def validate(config: Config) -> None:
    """Refuse what does not go together.

    Raises:
        SettingError: why, and what to do.
    """
    run, model = config.run, config.of(Model)
    if not fixed(HEADS.load(model.head)):
        raise SettingError(
            f"method {run.method!r} needs a head that is never trained, and model.head = {model.head!r} is not such; leave it out"
        )
    if config.of(FedGela).local and run.privacy != PRIVACY.first:
        raise SettingError(
            f"method {run.method!r} scales outputs by how many examples of a class a client has, which privacy = {run.privacy!r} "
            "does not cover; take fedgela.local = false"
        )


def check(config: Config, known: Any) -> None:
    """Refuse a mask where the head has no bias, which it would be put into.

    Raises:
        SettingError: it has none.
    """
    settings, layers = config.of(FedGela), layers_of(config, known)
    if settings.local and settings.absent == MASKED and layers is not None and not head_in(config.of(Model), layers)[1]:
        raise SettingError(
            "fedgela.absent = 'masked' works by the bias of the last layer, and this model's has none; take 'kept'"
        )


COMPONENT = Method(
    "FedGela",
    "FedAvg below a fixed head, whose outputs each client scales to the classes that it holds (Fan et al., 2023)",
    FedGela,
    preset={"model.head": "simplex"},
    does=lambda run: {"personal": bool(run["fedgela.local"])},
    validate=validate,
    check=check,
    stacks=True,
    classed=True,
    answered=True,
    layers="Linear as the last one",
)

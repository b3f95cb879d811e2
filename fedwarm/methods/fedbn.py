"""FedBN: Li, Jiang, Zhang, Kamp, Dou, "FedBN: Federated Learning on Non-IID Features via Local Batch Normalization", ICLR 2021,
arXiv 2102.07623.

FedAvg of all tensors but those of normalisation layers: each client keeps its own, and is measured with them. With
`fedbn.keep = statistics` only running means and variances stay, and scales and shifts are averaged, as in SiloBN (Andreux, Ogier
du Terrail, Beguier, Tramel, arXiv 2008.07424).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from fedwarm.core.arrays import Arrays, from_module
from fedwarm.methods import Method
from fedwarm.models import Model
from fedwarm.norms import STATISTICS, normalising
from fedwarm.scopes import fixed_in
from fedwarm.settings.config import Config
from fedwarm.settings.fields import Group, SettingError, Value, setting
from fedwarm.training.private import refuse_hidden
from fedwarm.training.sizes import layers_of

FIRST, LAYERS = "first", "layers"


@dataclass(frozen=True)
class FedBn(Group, prefix="fedbn"):
    """Settings of FedBN."""

    keep: str = setting(
        "layers", "tensors of normalisation that stay at each client; layers: all; statistics: running means and variances",
        choices=(LAYERS, "statistics"),
    )  # fmt: skip

    def kept(self, model: nn.Module) -> frozenset[str]:
        """Names of the model's tensors that do not travel.

        Raises:
            SettingError: it has none.
        """
        moving = [name for name in normalising(model) if name not in fixed_in(model)]
        found = frozenset(n for n in moving if self.keep == LAYERS or n.rpartition(".")[2] in STATISTICS)
        if not found:
            raise SettingError(
                f"fedbn.keep = {self.keep!r} finds no such tensors that are trained, so that all would be averaged; set "
                "model.norm = 'batch' and model.train = 'all', or take a model.name with batch normalisation"
            )
        return found

    def first(self, model: nn.Module) -> Arrays:
        """The model's tensors that do not travel; SettingError as of `kept`."""
        kept = self.kept(model)
        return {name: array for name, array in from_module(model).items() if name in kept}


def check(config: Config, known: Any) -> None:
    """Refuse a classifier without layers of normalisation.

    Raises:
        SettingError: it has none.
    """
    if (layers := layers_of(config, known)) is not None:
        config.of(FedBn).kept(layers)


def plain(get: Callable[[str], Value]) -> bool:
    """Whether nobody chose a classifier or a normalisation; the usual ones have no layers that could stay."""
    return get("model.name") == Model.name and get("model.norm") == Model.norm


COMPONENT = Method(
    "FedBn",
    "FedAvg whose normalisation layers stay with each client (Li et al., 2021)",
    FedBn,
    preset=lambda get: {"model.name": "resnet8", "model.norm": "batch"} if plain(get) else {},
    does=lambda run: {"shares": False, "personal": True, "begins": True},
    validate=refuse_hidden,
    check=check,
    layers="one with normalisation, which stays at the client",
)

"""SCAFFOLD: Karimireddy, Kale, Mohri, Reddi, Stich, Suresh, "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning",
ICML 2020, arXiv 1910.06378.

Each client keeps a control variate c_k, the server their mean c; local steps follow g - c_k + c, and clients drift less apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from fedwarm.methods import Method
from fedwarm.settings.config import Config
from fedwarm.settings.fields import Group, SettingError, setting
from fedwarm.training.loop import Hook
from fedwarm.training.private import hidden

CONTROL = "control"


@dataclass(frozen=True)
class Scaffold(Group, prefix="scaffold"):
    """Settings of SCAFFOLD."""

    server_learning_rate: float = setting(1.0, "eta_g, learning rate of the server", low=1e-6)
    weight_by: str = setting(
        "clients", "weight of a client's update; clients: the same for all, as in the paper; examples: its number of images",
        choices=("clients", "examples"),
    )  # fmt: skip


class ControlVariate(Hook):
    """Adds c - c_k to each step's gradient (Alg. 1, line 10).

    Args:
        shift: c - c_k by the parameters' names.
    """

    uses = "weights"

    def __init__(self, shift: Mapping[str, Tensor]) -> None:
        self.shift = shift

    def gradient(self, model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            told = self.shift.get(name.replace("parametrizations.", "").removesuffix(".original"))
            if told is not None and parameter.grad is not None:
                parameter.grad.add_(told.to(parameter.grad))


def control_after(
    control: Mapping[str, Tensor],
    shared: Mapping[str, Tensor],
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    path: float,
) -> dict[str, Tensor]:
    """c_k+ = c_k - c + (x - y_k) / path (Alg. 1, line 12, option II).

    Args:
        control: c_k by name.
        shared: c.
        before, after: the received model x and the trained one y_k.
        path: how far a constant gradient of length 1 moves, `training.plan.path_of`.
    """
    return {name: c - shared[name] + (before[name] - after[name]) / path for name, c in control.items()}


def validate(config: Config) -> None:
    """Refuse a codec whose noise c would keep for ever, as it is a sum of all changes.

    Raises:
        SettingError: the codec adds noise.
    """
    if hidden(config):
        raise SettingError(
            f"codec = {config.run.codec!r} cannot be used with method {config.run.method!r}, whose control variate sums up all "
            "changes and so their noise; take another codec or another method"
        )


COMPONENT = Method(
    "Scaffold",
    "control variates against the drift of unlike clients (Karimireddy et al., 2020)",
    Scaffold,
    averages=False,
    validate=validate,
    refuses={"optimiser": "works its control variates out of steps of SGD"},
    does=lambda run: {"weighs": run["scaffold.weight-by"] == "examples"},
)

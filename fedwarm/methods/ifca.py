"""IFCA: Ghosh, Chung, Yin, Ramchandran, "An Efficient Framework for Clustered Federated Learning", NeurIPS 2020,
arXiv 2006.04088.

The server holds K models. A client trains the one with the least loss on its images, and each becomes the mean over those who
trained it (Alg. 1 with model averaging).
"""

from __future__ import annotations

from dataclasses import dataclass

from fedwarm.methods import Method
from fedwarm.models import Model
from fedwarm.settings.config import Config
from fedwarm.settings.fields import Group, SettingError, setting
from fedwarm.settings.kinds import PRIVACY
from fedwarm.training.private import hidden


@dataclass(frozen=True)
class Ifca(Group, prefix="ifca"):
    """Settings of IFCA."""

    clusters: int = setting(
        4, "K, number of models; each client trains the one with the least loss on its data; 1: FedAvg", low=1, high=256
    )


def validate(config: Config) -> None:
    """Refuse what does not go together.

    Raises:
        SettingError: why, and what to do.
    """
    several, run = config.of(Ifca).clusters > 1, config.run
    if hidden(config) or (several and run.privacy != PRIVACY.first):
        raise SettingError(
            f"method {run.method!r} tells which model suits a client best, and no account covers that; take ifca.clusters = 1 "
            "with private steps, or another method with a private codec"
        )
    if several and config.of(Model).weights:
        raise SettingError("model.weights makes all clusters alike, and these never come apart; leave it empty")


COMPONENT = Method(
    "Ifca",
    "several models; each client trains the one with the least loss on its data (Ghosh et al., 2020)",
    Ifca,
    averages=False,
    does=lambda run: {"shares": False, "personal": True},
    validate=validate,
    answered=lambda run: run["ifca.clusters"] > 1,
    refuses={"objective": "compares models by the task's loss alone"},
)

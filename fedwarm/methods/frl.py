"""FRL, Federated Rank Learning: Mozaffari, Shejwalkar, Houmansadr, "Every Vote Counts: Ranking-Based Training of Federated
Learning to Resist Poisoning Attacks", USENIX Security 2023, arXiv 2110.04350.

Weights are drawn once and never change. A client trains scores that say which of them are on, and sends the order of these; the
server adds up places, so that a client moves a weight by no more than one vote. Masks, gradients and the vote are those of the
authors' code; that scores rank by magnitude, as masks are chosen, and not by their signed value is a reading.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from fedwarm.methods import Method
from fedwarm.settings.config import Config
from fedwarm.settings.fields import Group, setting
from fedwarm.sparse import replies
from fedwarm.sparse.supermask import Supermask, ranked
from fedwarm.training.sizes import layers_of

ORDERS = "orders"  # how the array is called that travels
SIGNED = "signed"


@dataclass(frozen=True)
class Frl(Group, prefix="frl"):
    """Settings of FRL."""

    density: float = setting(
        0.5, "kappa, share of each layer's weights that are on, those of the largest scores; 1: all, and nothing is learned",
        low=1e-4, high=1.0,
    )  # fmt: skip
    rank_by: str = setting(
        "magnitude", "what scores rank by; magnitude: as masks are chosen; signed: their value, as in the authors' code, so that "
        "weights at both ends are on", choices=("magnitude", SIGNED),
    )  # fmt: skip

    def network(self, model: nn.Module, seed: int) -> Supermask:
        """The frozen weights and first scores of an architecture.

        Raises:
            SettingError: it has layers that are not ranked, or running statistics.
        """
        replies.refuse_statistics(dict(model.named_buffers()))
        return Supermask.of(model, self.density, self.rank_by == SIGNED, seed)


def check(config: Config, known: Any) -> None:
    """Refuse a classifier with running statistics, or with trained weights that are not ranked.

    Raises:
        SettingError: it has.
    """
    replies.check(config, known)
    if (layers := layers_of(config, known)) is not None:
        ranked(layers)


COMPONENT = Method(
    "Frl",
    "clients rank random weights that never change, and the server counts votes on which are on (Mozaffari et al., 2023)",
    Frl,
    defaults={"learning-rate": 0.1, "batch-size": 8},
    averages=False,
    does=lambda run: {"averages": False, "weighs": False, "begins": True},
    check=check,
    refuses={
        "objective": "trains scores of weights by the task's loss alone",
        "privacy": "sends rankings, which no account covers",
        "codec": "sends rankings, which are packed already",
        "model.weights": "draws its weights from the seed",
        "model.train": "ranks the weights of all layers",
    },
    layers="Linear and Conv",
)

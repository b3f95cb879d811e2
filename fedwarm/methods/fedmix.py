"""FedMix: Reisser, Louizos, Gavves, Welling, "Federated Mixture of Experts", arXiv 2107.06724, 2021.

The server holds K experts, each client a gate of its own that says which expert an example is for. Clients train the experts
that they use, and the server averages each expert over those who trained it. The abstract says so much; gate, posterior,
normalisation, initialisation and selection are readings, and each has a setting.

Claims of patents may cover it: WO2021/247944, US20230118025. The method of this name that is a mixup is another one (Yoon, Shin,
Hwang, Yang, "FedMix: Approximation of Mixup under Mean Augmented Federated Learning", ICLR 2021, arXiv 2107.00233).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedwarm.methods import Method
from fedwarm.models import Model
from fedwarm.settings.config import Config
from fedwarm.settings.fields import Group, SettingError, setting
from fedwarm.settings.kinds import PRIVACY, TASKS
from fedwarm.training.gates import ALIGNED, GATES, OWN_NET
from fedwarm.training.mixture import PER_CLIENT, PER_EXPERT
from fedwarm.training.private import hidden

ALL, THRESHOLD, TOP = "all", "threshold", "top_m"
SEEDS, NOISE, RANDOM_GATES = "seeds", "noise", "gates"
PRIOR, UNIFORM = "prior", "uniform"


def _several(run: Any) -> bool:
    return bool(run["fedmix.experts"] > 1)


def _selects(run: Any) -> bool:
    return _several(run) and bool(run["fedmix.select"] != ALL)


@dataclass(frozen=True)
class FedMix(Group, prefix="fedmix"):
    """Settings of FedMix."""

    experts: int = setting(4, "K, number of shared models; 1: FedAvg", low=1, high=256)
    gate: str = setting(
        "own_net",
        "input of a client's gate; own_net: the image, by a small network; bias: none, the same weights of experts for "
        "all of a client's images; trunk: features of one trunk that all experts share; aligned: the mean of the experts' "
        "features, which are pulled together", choices=GATES, when=_several,
    )  # fmt: skip
    alignment: float = setting(
        0.01, "weight of the alignment loss: squared distances of the experts' features from their mean",
        low=0.0, when=lambda r: _several(r) and r["fedmix.gate"] == ALIGNED,
    )  # fmt: skip
    gate_rate: float = setting(1.0, "learning rate of the gate, relative to that of the experts", low=1e-6, when=_several)
    gate_warmup: int = setting(10, "steps of the gate alone before the experts train, in each round", low=0, when=_several)
    norm: str = setting(
        "per_expert",
        "loss of an expert at a client; per_expert: mean over its responsibilities, whose sum is its weight at the "
        "server; per_client: mean over the client's images, whose number is the weight, as in FedEM",
        choices=(PER_EXPERT, PER_CLIENT), when=_several,
    )  # fmt: skip
    select: str = setting(
        "all",
        "experts that a client receives and trains; all; threshold: those that explain at least fedmix.tau of its images; "
        "top_m: the fedmix.top that explain most",
        choices=(ALL, THRESHOLD, TOP), when=_several,
    )  # fmt: skip
    tau: float = setting(
        0.05,
        "with select = threshold: least fraction of a client's images that an expert must explain to be kept; the best "
        "expert is always kept",
        low=0.0, high=1.0, when=lambda r: _several(r) and r["fedmix.select"] == THRESHOLD,
    )  # fmt: skip
    top: int = setting(
        1,
        "number of experts that a client keeps, with select = top_m",
        low=1,
        when=lambda r: _several(r) and r["fedmix.select"] == TOP,
    )
    refresh: int = setting(10, "rounds after which a client receives all experts again", low=1, when=_selects)
    init: str = setting(
        "seeds",
        "initial experts; seeds: each drawn by itself; noise: one model plus noise; gates: one model, with random gates",
        choices=(SEEDS, NOISE, RANDOM_GATES), when=_several,
    )  # fmt: skip
    init_scale: float = setting(
        0.1,
        "with init = noise: standard deviation of the noise in units of each tensor's own; with init = gates: of the "
        "gates' logits",
        low=0.0, when=lambda r: _several(r) and r["fedmix.init"] != SEEDS,
    )  # fmt: skip
    usage_entropy_client: float = setting(
        0.0,
        "weight of a penalty on the entropy of a client's use of experts; larger: fewer experts for each client; 0: no "
        "penalty",
        low=0.0, when=_several,
    )  # fmt: skip
    usage_entropy_global: float = setting(
        0.0,
        "weight of a reward for the entropy of all clients' use of experts; larger: no expert takes all images; 0: no "
        "reward",
        low=0.0, when=_several,
    )  # fmt: skip
    least_mass: float = setting(1.0, "images that an expert must be responsible for in a round to be updated", low=0.0)
    server_learning_rate: float = setting(1.0, "learning rate of the server for each expert", low=1e-6)
    server_momentum: float = setting(0.0, "momentum of the server for each expert", low=0.0, high=0.9999)
    predict: str = setting(
        "mixture", "prediction of a client; mixture: of its experts; argmax: of the expert that its gate prefers",
        choices=("mixture", "argmax"), when=_several,
    )  # fmt: skip
    new_client: str = setting(
        "prior",
        "weights of experts in the global model and for new clients; prior: the clients' mean use of each expert; uniform",
        choices=(PRIOR, UNIFORM), when=_several,
    )  # fmt: skip

    def selected(self, mass: Sequence[float]) -> tuple[int, ...]:
        """The experts that a client keeps, ascending, by how many of its images each is responsible for."""
        order = sorted(range(len(mass)), key=lambda k: (-mass[k], k))
        if self.select == THRESHOLD:
            order = [k for k in order if mass[k] >= self.tau * sum(mass)] or order[:1]
        return tuple(sorted(order[: self.top] if self.select == TOP else order))


def validate(config: Config) -> None:
    """Refuse what does not go together.

    Raises:
        SettingError: why, and what to do.
    """
    own, run = config.of(FedMix), config.run
    if hidden(config):
        raise SettingError(
            f"codec = {run.codec!r} hides what clients hold, and method {run.method!r} tells which experts that is for; take "
            "another of them"
        )
    if own.experts > 1 and own.init == SEEDS and config.of(Model).weights:
        raise SettingError(
            "model.weights makes all experts alike, and these never come apart; set fedmix.init = 'noise' or 'gates'"
        )
    if run.task != TASKS.first:
        raise SettingError(f"task = {run.task!r} has no likelihood that method {run.method!r} could mix; take {TASKS.first!r}")
    if own.experts > 1 and run.privacy != PRIVACY.first:
        _check_private(own, run.privacy)


def _check_private(own: FedMix, privacy: str) -> None:
    """Of private steps, which have a mean over examples: nothing else may follow from a client's images."""
    wanted: Mapping[str, Any] = {
        "norm": PER_CLIENT, "gate_warmup": 0, "select": ALL, "gate_rate": 1.0, "usage_entropy_client": 0.0,
        "usage_entropy_global": 0.0,
    }  # fmt: skip
    for name, value in wanted.items():
        if getattr(own, name) != value:
            key = f"fedmix.{name.replace('_', '-')}"
            raise SettingError(f"{key} = {getattr(own, name)!r} is not covered by privacy = {privacy!r}; set {key} = {value!r}")
    if own.gate == ALIGNED:
        raise SettingError(f"fedmix.gate = {own.gate!r} is not covered by privacy = {privacy!r}; take 'own_net' or 'bias'")


COMPONENT = Method(
    "FedMix",
    "shared experts, and a gate at each client that chooses among them (Reisser et al., 2021)",
    FedMix,
    defaults={"learning-rate": 0.05, "local-epochs": 1},
    averages=False,
    classed=True,
    layers="a linear head, where the gate looks at features",
    does=lambda run: {"shares": False, "personal": True},
    validate=validate,
    pictures=lambda run: _several(run) and run["fedmix.gate"] == OWN_NET,
    refuses={
        "objective": "trains experts and gates by the mixture's likelihood alone",
        "metrics": "counts right answers of its mixtures alone",
        "data.validation-fraction": "measures its mixtures on test images alone",
        "optimiser": "makes each expert's step as long as its share of a batch",
    },
)

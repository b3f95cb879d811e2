"""Federated SimCLR with user verification: Louizos, Reisser, Korzhenkov, "A Mutual Information Perspective on Federated
Contrastive Learning", ICLR 2024, arXiv 2405.02081.

Contrast within each client bounds I(z1; z2 | s), s the client. As I(z1; z2) = I(z1; z2 | s) + I(z1; s) - I(z1; s | z2), a head
r(s | z) that tells clients apart on either view makes of it a bound of the global information:

    I(z1; z2) >= E[log N - L_con] + E log r(s | z1) + E log r(s | z2) + H(s).

With labels y the same steps inside a label: contrast among images of one label, r(s | z, y), and a head r(y | z). The forms of
heads and weights are ours or others' where the paper's public text names none, and stay settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedwarm.core.arrays import Arrays
from fedwarm.core.seeds import initialisation, numpy_generator
from fedwarm.data.heldout import draw
from fedwarm.data.testing import CENTRAL
from fedwarm.methods import Method
from fedwarm.models import Model, behead
from fedwarm.settings.config import Config
from fedwarm.settings.fields import Group, SettingError, setting
from fedwarm.settings.kinds import TASKS
from fedwarm.tasks.contrast import Contrast, Contrasting
from fedwarm.training.loop import Batch, Hook
from fedwarm.training.private import hidden
from fedwarm.training.sizes import layers_of

PART, ROWS, PLACE = "heads", "rows", "place"
OWN = ("own_row", "sampled")  # the ways in which a client sends its own row alone
NONE = -1  # the label of an image whose label training does not know


@dataclass(frozen=True)
class FedSimClr(Group, prefix="fed-simclr"):
    """Settings of federated SimCLR."""

    labelled: float = setting(
        0.0, "fraction of a client's images whose labels are used in training; 0: unsupervised; 1: supervised", low=0.0, high=1.0
    )
    beta: float = setting(
        1.0, "weight of the loss that identifies clients; 1: as in the paper's bound; 0: plain federated SimCLR", low=0.0,
        when=lambda r: not r["fed-simclr.alone"],
    )  # fmt: skip
    verification: str = setting(
        "cosine", "head that identifies clients, without biases; cosine: scaled cosine similarities; linear: scalar products",
        choices=("cosine", "linear"), when=lambda r: not r["fed-simclr.alone"],
    )  # fmt: skip
    scale: float = setting(
        4.0, "factor of the cosine similarities; larger values pull a client's features more strongly to its row",
        low=0.01, when=lambda r: not r["fed-simclr.alone"] and r["fed-simclr.verification"] == "cosine",
    )  # fmt: skip
    rows: str = setting(
        "own_row",
        "rows of the head that identifies clients, one for each client; own_row: clients receive all and send their own; "
        "full: clients send all, and each client's own is used; average: all are averaged; sampled: only rows of the "
        "round's clients are received, and their own sent; codes: fixed rows that are not sent",
        choices=("own_row", "full", "average", "sampled", "codes"), when=lambda r: not r["fed-simclr.alone"],
    )  # fmt: skip
    conditioned: str = setting(
        "concatenated",
        "labels in the head that identifies clients; concatenated: appended to the features; per_class: separate "
        "rows for each class",
        choices=("concatenated", "per_class"), when=lambda r: r["fed-simclr.labelled"] > 0 and not r["fed-simclr.alone"],
    )  # fmt: skip
    projector: str = setting(
        "mlp", "projection of features to vectors; mlp: two layers; linear: one layer", choices=("mlp", "linear")
    )
    bound_images: int = setting(256, "test images of a client on which the bound is measured; 0: all", low=0)
    alone: bool = setting(False, "baseline: each client trains its own encoder and shares nothing")


class Heads(nn.Module):
    """What stands on the encoder's features (n, d) in training and is dropped afterwards.

    Attributes:
        project: the second part of the projector, on the classifier's head; its first part is that.
        predict: SimSiam's predictor, or None.
        label: r(y | z) by logits (n, C), or None where no label is known.
        rows: of r(s | z), (S, ..), one for each client.
    """

    def __init__(self, settings: FedSimClr, contrast: Contrast, features: int, classes: int, clients: int) -> None:
        super().__init__()
        self.settings, self.classes, width = settings, classes, contrast.width
        self.project = nn.Sequential(nn.ReLU(), nn.Linear(width, width)) if settings.projector == "mlp" else nn.Identity()
        hidden = max(1, width // 4)
        bottleneck = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))
        self.predict = bottleneck if contrast.loss == "simsiam" else None
        self.label = nn.Linear(features, classes, bias=False) if settings.labelled else None
        shape = self.row_shape(features)
        self.rows = nn.Parameter(torch.randn(clients, *shape) / shape[-1] ** 0.5, requires_grad=settings.rows != "codes")

    def row_shape(self, features: int) -> tuple[int, ...]:
        """The shape of one client's row: with labels, for each of them and for none, or longer by a place for each."""
        if not self.settings.labelled:
            return (features,)
        return (self.classes + 1, features) if self.settings.conditioned == "per_class" else (features + self.classes,)

    def verify(self, features: Tensor, labels: Tensor) -> Tensor:
        """Logits (n, S) of r(s | z, y) for features (n, d) and labels (n,), below 0 where there is none."""
        rows: Tensor = self.rows
        cosine = self.settings.verification == "cosine"
        seen = F.normalize(features, dim=1) if cosine else features
        if self.settings.labelled and self.settings.conditioned == "per_class":
            rows = rows[:, torch.where(labels < 0, self.classes, labels)]
            logits = ((F.normalize(rows, dim=2) if cosine else rows) * seen).sum(2).T
            return self.settings.scale * logits if cosine else logits
        if self.settings.labelled:
            places = F.one_hot(labels.clamp(min=0), self.classes) * (labels >= 0)[:, None]
            seen = torch.cat([seen, places.to(seen)], 1)
        return self.settings.scale * F.normalize(seen, dim=1) @ F.normalize(rows, dim=1).T if cosine else seen @ rows.T


class Contrastive(nn.Module):
    """Encoder, the classifier's head as the projector's first layer, and heads; gives vectors (n, w), see `tasks.contrast`.

    Attributes:
        features: the encoder's outputs (n, d) in the last pass, which the heads' losses take.
        classes: names, by which is chosen how views are made.
    """

    features: Tensor

    def __init__(self, encoder: nn.Module, head: nn.Module, heads: Heads, classes: tuple[str, ...]) -> None:
        super().__init__()
        self.encoder, self.head, self.heads, self.classes = encoder, head, heads, classes

    def forward(self, images: Tensor) -> Tensor:
        """Vectors of images (n, 3, S, S), with what is predicted from them behind, where there is a predictor."""
        self.features = self.encoder(images)
        vectors: Tensor = self.heads.project(self.head(self.features))
        return vectors if self.heads.predict is None else torch.cat([vectors, self.heads.predict(vectors)], 1)


class Verification(Hook):
    """beta (CE(r(. | z1), s) + CE(r(. | z2), s)), and of images with labels CE(r(. | z1), y) + CE(r(. | z2), y), by their share.

    Args:
        settings: of the method.
        place: the row of this client.
    """

    def __init__(self, settings: FedSimClr, place: int) -> None:
        self.settings, self.place = settings, place

    def loss(self, batch: Batch, loss: Tensor) -> Tensor:
        assert isinstance(batch.model, Contrastive)
        heads, features, labels = batch.model.heads, batch.model.features, batch.labels.repeat(2)
        if self.settings.beta and not self.settings.alone:
            own = torch.full_like(labels, self.place)
            loss = loss + 2 * self.settings.beta * F.cross_entropy(heads.verify(features, labels), own)
        known = labels >= 0
        if heads.label is not None and bool(known.any()):
            loss = loss + 2 * known.float().mean() * F.cross_entropy(heads.label(features[known]), labels[known])
        return loss


def heads_of(config: Config, head: nn.Module, classes: int, clients: int) -> Heads:
    """The run's heads behind a classifier's head, with their shared initialisation."""
    weight = head.weight
    assert isinstance(weight, Tensor)
    with initialisation(config.run.seed, PART):
        return Heads(config.of(FedSimClr), config.of(Contrast), weight.shape[1], classes, clients)


def sent(arrays: Arrays, settings: FedSimClr, place: int) -> Arrays:
    """What a client answers with of arrays such as it was sent: its own row of them, where that alone travels."""
    name = f"{PART}/{ROWS}"
    if settings.rows not in OWN or name not in arrays:
        return arrays
    return {**arrays, name: arrays[name][place : place + 1]}


def measures_rows(settings: FedSimClr) -> bool:
    """Whether clients can measure how well they are told apart among all: where all rows are there."""
    return not settings.alone and settings.rows != "sampled"


def known_labels(labels: Tensor, share: float, seed: int, partition: int) -> Tensor:
    """Labels (n,), -1 where training does not know them: a share stays, drawn in the classes' proportions.

    The images that keep them are those which `data.max-examples` of as many would keep.
    """
    count = len(labels)
    kept = min(count, max(1, round(share * count))) if share else 0
    hidden = draw(labels.numpy(), count - kept, numpy_generator(seed, "max-examples", partition))
    return labels.masked_fill(torch.from_numpy(np.asarray(hidden)), NONE)


def validate(config: Config) -> None:
    """Refuse what does not go with the method.

    Raises:
        SettingError: the task is another, codes would hide what the clients' rows tell, or a measure takes a classifier.
    """
    flat, settings = config.flat(), config.of(FedSimClr)
    if not issubclass(TASKS.load(config.run.task), Contrasting):
        raise SettingError(f"method 'fed_simclr' contrasts views, and task = {config.run.task!r} does not; leave task out")
    if hidden(config):
        raise SettingError(
            f"codec = {config.run.codec!r} hides what a client holds, and with method 'fed_simclr' losses that look at several "
            "images and a row for each client tell of it; take another codec or method"
        )
    if flat["data.test"] == CENTRAL:
        raise SettingError(
            "data.test = 'central' with method 'fed_simclr', which is measured at clients; take 'split' or 'held-out'"
        )
    if flat["evaluate.bit-widths"]:
        raise SettingError(
            "evaluate.bit-widths measures a classifier, and method 'fed_simclr' trains none; measure what follows it"
        )
    if config.of(Contrast).labels != "ignored" and not settings.labelled:
        raise SettingError("contrast.labels needs labels that training knows; set fed-simclr.labelled above 0")


def check(config: Config, known: Any) -> None:
    """See that the classifier's head can be the projector's first layer.

    Raises:
        SettingError: it does not take features (n, d), as a convolution does not.
    """
    model = layers_of(config, known)
    weight = None if model is None else getattr(behead(config.of(Model), model)[1], "weight", None)
    if model is not None and (not isinstance(weight, Tensor) or weight.dim() != 2):
        raise SettingError(
            f"method 'fed_simclr' projects features by the head, and that of model.name = {config.of(Model).name!r} is no "
            "linear layer; take a model that ends in one"
        )


def does(run: Any) -> Mapping[str, bool]:
    """Alone, clients share nothing."""
    if not run["fed-simclr.alone"]:
        return {}
    shared = dict.fromkeys(("uploads", "averages", "weighs", "shares", "samples"), False)
    return {**shared, "personal": True, "begins": True}


COMPONENT = Method(
    "FedSimClr",
    "federated SimCLR with a head that identifies clients (Louizos et al., 2024)",
    FedSimClr,
    pictures=True,
    classed=True,
    preset=lambda get: {
        "task": "contrast",
        "model.name": "conv4",
        "optimiser": "adamw",
        "learning-rate": 0.002,
        "local-epochs": 1,
        "batch-size": 64,
        "num-server-rounds": 40,
        "probe.linear": True,
        "probe.neighbours": 20,
        **({"contrast.labels": "conditional"} if get("fed-simclr.labelled") else {}),
    },
    validate=validate,
    check=check,
    does=does,
    averages=False,
    refuses={
        "privacy": "contrasts images with each other, which private steps do not cover",
        "metrics": "counts right answers by nearest neighbours alone",
        "data.validation-fraction": "measures its encoder on test images alone",
        "objective": "trains heads beside the classifier, of which objectives know nothing",
    },
)

"""Learning without labels: the vectors of two random views of an image are to be alike, and unlike those of other images.

Any classifier does, with its head as a linear projector. A module that ends in more may give (2 b, 2 w): vectors and what is
predicted from them, for SimSiam, which collapses without a predictor. Labels are not looked at unless `contrast.labels` says so;
a label below 0 is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedwarm.settings.fields import Group, SettingError, setting
from fedwarm.tasks import Task
from fedwarm.tasks.contrast.losses import Contrasted, infonce, nt_xent, simsiam, spectral, supcon
from fedwarm.tasks.contrast.views import Views, flips, view

SCORED = ("nt_xent", "infonce")


@dataclass(frozen=True)
class Contrast(Group, prefix="contrast"):
    """Settings of what is made of two views."""

    loss: str = setting(
        "nt_xent",
        "contrastive loss; nt_xent: SimCLR's; infonce: one direction of it; spectral: squared products; simsiam: without "
        "negatives",
        choices=(*SCORED, "spectral", "simsiam"),
    )  # fmt: skip
    temperature: float = setting(
        0.5,
        "temperature of nt_xent and infonce, by which cosines are divided; smaller values give near neighbours more weight",
        low=1e-3,
    )
    width: int = setting(128, "length of the vectors that are compared", low=1)
    labels: str = setting(
        "ignored",
        "use of known labels; ignored: none; conditional: images are contrasted with others of their label alone; supcon: "
        "images of a label are each other's positives (nt_xent alone)",
        choices=("ignored", "conditional", "supcon"),
        when=lambda r: r["contrast.loss"] != "simsiam",
    )  # fmt: skip
    neighbours: int = setting(
        20, "k of the nearest-neighbour classifier that measures each round's features at the clients", low=1
    )

    def groups(self, labels: Tensor) -> Tensor:
        """Who is contrasted with whom, by labels (b,): all of one number; examples without label are of one, too."""
        return torch.zeros_like(labels) if self.labels == "ignored" else labels.clamp(min=-1)

    def loss_of(self, vectors: Tensor, labels: Tensor) -> Tensor:
        """The scalar of vectors (2 b, w), or (2 b, 2 w) with what is predicted from them, and labels (b,)."""
        groups = self.groups(labels)
        if self.loss == "simsiam":
            known, predicted = vectors.chunk(2, 1) if vectors.shape[1] == 2 * self.width else (vectors, vectors)
            return simsiam(known, predicted)
        if self.loss == "spectral":
            return spectral(vectors, groups)
        if self.loss == "infonce":
            return infonce(vectors, groups, self.temperature).losses.mean()
        scored = supcon if self.labels == "supcon" else nt_xent
        return scored(vectors, groups, self.temperature).losses.mean()

    def scored(self, vectors: Tensor) -> Contrasted:
        """What the contrast comes to for each anchor of vectors (2 b, w), all against all: what the bound takes, by any loss."""
        among = infonce if self.loss == "infonce" else nt_xent
        return among(vectors, torch.zeros(len(vectors) // 2, dtype=torch.int64, device=vectors.device), self.temperature)


class Contrasting(Task):
    """Two views of each image are alike, and unlike others'; no answer is right or wrong."""

    settings: ClassVar[tuple[type[Group], ...]] = (Contrast, Views)
    scope = "batch"
    pictures = True
    answers = False

    def __init__(self, contrast: Contrast | None = None, views: Views | None = None) -> None:
        self.contrast, self.views = contrast or Contrast(), views or Views()
        if self.contrast.labels == "supcon" and self.contrast.loss != "nt_xent":
            raise SettingError(
                f"contrast.labels = 'supcon' is for nt_xent alone, not for {self.contrast.loss}; take 'conditional'"
            )

    @property
    def neighbours(self) -> int:
        return self.contrast.neighbours

    def width(self, classes: int) -> int:
        return self.contrast.width

    def outputs(self, model: nn.Module, inputs: Tensor, draws: torch.Generator | None) -> Tensor:
        """Vectors of both views, (2 b, w); of the images as they are, (b, w), where nothing may be drawn."""
        seen = inputs if draws is None else two_views(inputs, self.views, getattr(model, "classes", ()), draws)
        vectors: Tensor = model(seen)
        return vectors

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return self.contrast.loss_of(outputs, labels)


def two_views(inputs: Tensor, views: Views, classes: tuple[str, ...], draws: torch.Generator) -> Tensor:
    """First views and then second ones (2 b, 3, S, S) of inputs (b, 3, S, S)."""
    mirrored = flips(views, classes)
    return torch.cat([view(inputs, views, mirrored, draws) for _ in range(2)])


COMPONENT = Contrasting

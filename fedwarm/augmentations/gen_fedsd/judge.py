"""A classifier that looks at drawn images and says how likely each shows what was asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fedwarm.augmentations.gen_fedsd.amounts import GenFedSD
from fedwarm.data.settings import Data
from fedwarm.diffusion.sizes import EXACT_ROWS
from fedwarm.models import Model, build_model, device_of, weights_in
from fedwarm.settings.config import Config
from fedwarm.training.evaluate import predict

BLANK, ASKED = -1.0, 0.0


@dataclass(frozen=True)
class Judge:
    """A loaded classifier."""

    model: nn.Module

    @classmethod
    def of(cls, config: Config, classes: int) -> Judge:
        """The classifier of `gen-fedsd.judge`, of the run's architecture.

        Raises:
            SettingError: there is no such file, or it does not fit.
        """
        path, architecture = config.of(GenFedSD).judge, replace(config.of(Model), weights="", train=Model.train)
        model = build_model(architecture, classes, config.of(Data).image_size, config.run.seed)
        model.load_state_dict(weights_in(path, "gen-fedsd.judge", model.state_dict()))
        return cls(model.to(device_of(config.run.device)))

    def probability(self, images: Tensor, label: int) -> Tensor:
        """Of the class, (n,), for uint8 images (n, 3, S, S).

        Sixteen are looked at together, the last ones filled up, so that an image's number does not depend on how many there are.
        """
        n = len(images)
        filled = torch.cat([images, images[-1:].expand(-n % EXACT_ROWS, *images.shape[1:])])
        return predict(self.model, filled, EXACT_ROWS).softmax(1)[:n, label]


def scores(judge: Judge | None, images: Tensor, label: int) -> Tensor:
    """(n,): -1 for a picture of one colour, else the judge's probability of the class, or 1 without a judge."""
    if not len(images):
        return torch.empty(0)
    flat = images.flatten(1)
    blank = flat.amax(1) == flat.amin(1)
    found = torch.ones(len(images)) if judge is None else judge.probability(images, label)
    return torch.where(blank, torch.tensor(BLANK), found)

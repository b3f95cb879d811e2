"""Captioned pictures of a data set's public part, to train a foundation on what no client holds.

A picture is an image of the public part, shifted and scaled a little; its caption is the class's phrase in one of the templates
that clients use later, drawn at random for every picture.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedwarm.data.provenance import labels_mark
from fedwarm.data.settings import Data
from fedwarm.data.shards import open_table
from fedwarm.data.tables import public_of
from fedwarm.data.testing import HELD_OUT, split_table
from fedwarm.diffusion.sentences import PLACE, Wording, phrases, templates
from fedwarm.models import to_input
from fedwarm.settings.fields import SettingError

READ = ("background", "bits", "missing_labels", "skip_broken")


@dataclass(frozen=True, eq=False)
class PublicPart:
    """The public images of a data set, an endless source of captioned pictures.

    Attributes:
        data: where the images are from; its `public_share` says how many.
        images: uint8 (n, 3, S, S).
        labels: int64 (n,).
        phrases: what each class is called.
        templates: what is said of it; a caption is a template with the phrase in it.
        jitter: a picture is shifted and scaled by up to this share of its side; 0: not at all.
        labels_sha256: tells the data set by its labels.
    """

    data: Data
    images: Tensor
    labels: Tensor
    phrases: tuple[str, ...]
    templates: tuple[str, ...]
    jitter: float
    labels_sha256: str

    def batch(self, n: int, generator: torch.Generator) -> tuple[Tensor, list[str]]:
        """n pictures (n, 3, S, S) in [-1, 1], each image as likely as the next, and their captions."""
        rows = torch.randint(len(self.labels), (n,), generator=generator)
        template = torch.randint(len(self.templates), (n,), generator=generator)
        pictures = moved(to_input(self.images[rows]), self.jitter, generator)
        return pictures, [self.caption(c, t) for c, t in zip(self.labels[rows].tolist(), template.tolist(), strict=True)]

    def caption(self, label: int, number: int) -> str:
        """What is said of a class; templates are taken in turn."""
        return self.templates[number % len(self.templates)].replace(PLACE, self.phrases[label])

    def captions(self) -> list[str]:
        """All captions that there are."""
        return [self.caption(c, t) for c in range(len(self.phrases)) for t in range(len(self.templates))]

    def provenance(self) -> dict[str, Any]:
        """What `recipe.json` says about the data."""
        return {
            "name": self.data.name,
            "public_share": self.data.public_share,
            **({"public_where": self.data.public_where} if self.data.public_where else {}),
            "images": len(self.labels),
            "classes": list(self.phrases),
            "templates": len(self.templates),
            "jitter": self.jitter,
            "labels_sha256": self.labels_sha256,
            "images_sha256": sha256(self.images.numpy().tobytes()).hexdigest(),
            **{name: getattr(self.data, name) for name in READ if getattr(self.data, name) != getattr(Data(), name)},
        }


def public_part(data: Data, jitter: float = 0.0) -> PublicPart:
    """The public part of the data set in the settings.

    Raises:
        SettingError: the data set cannot be read, the share is 0, or a class has no image in the public part.
    """
    if not data.public:
        raise SettingError("data.public-share = 0 leaves no public part to train on; give a share of every class, e.g. 0.5")
    table = open_table(data)
    rows = public_of(table, data.public_share, data.public_where)
    labels = table.label.codes[rows]
    names = table.label.names
    for code, count in enumerate(np.bincount(labels, minlength=len(names))):
        if count == 0:
            which, advice = f"share = {data.public_share:g}", "take a larger share, or leave out classes with few images"
            if data.public_where:
                which, advice = f"where = {data.public_where!r}", "say what has images of every class"
            raise SettingError(f"data.public-{which} of {data.name} holds no image of class {names[code]!r}; {advice}")
    called = tuple(phrases(Wording(), names))
    said = templates(Wording(), "", None, called)
    return PublicPart(data, table.images(rows), torch.from_numpy(labels), called, said, jitter, labels_mark(table))


def moved(pictures: Tensor, jitter: float, generator: torch.Generator) -> Tensor:
    """Pictures (n, 3, S, S) shifted and scaled at random by up to `jitter` of their side; their borders go on outwards."""
    if jitter == 0:
        return pictures
    n = len(pictures)
    draws = (2 * torch.rand(n, 4, generator=generator) - 1) * jitter
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = 1 + draws[:, 0], 1 + draws[:, 1]
    theta[:, :, 2] = 2 * draws[:, 2:]
    grid = F.affine_grid(theta, list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)


def refuse_seen(folder: Path, data: Data) -> None:
    """Refuse a foundation that was trained on images which clients hold, by its `recipe.json`; no record says nothing.

    Raises:
        SettingError: it was trained on more of this data set than the settings keep public.
    """
    try:
        seen = json.loads((folder / "recipe.json").read_text())["data"]
        share, mark = float(seen["public_share"]), str(seen["labels_sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return
    table = open_table(data)
    if data.test != HELD_OUT and mark == labels_mark(split_table(data, table)):
        raise SettingError(
            f"the foundation {folder} has seen {share:g} of what this run tests on, split {data.test_split!r} of {data.name}; "
            "take another foundation, or another split"
        )
    where = str(seen.get("public_where", ""))
    if where != data.public_where and where and mark == labels_mark(table):
        raise SettingError(
            f"the foundation {folder} has seen {where} of {data.name}; data.public-where = {data.public_where!r} lets clients "
            "hold that, set it to the same"
        )
    if share > 0 and data.public_where and mark == labels_mark(table):
        raise SettingError(
            f"the foundation {folder} has seen {share:g} of {data.name}, wherever that lies; data.public-where = "
            f"{data.public_where!r} lets clients hold a part of it, set data.public-share={share:g} in its place"
        )
    if share > data.public_share and mark == labels_mark(table):
        raise SettingError(
            f"the foundation {folder} has seen {share:g} of {data.name}; data.public-share = {data.public_share:g} lets clients "
            f"hold a part of that, set it to at least {share:g}"
        )

"""Train a foundation from the command line: checks first, then the training, its judge, and the record beside the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedwarm.catalogue import parse
from fedwarm.core.files import write_text
from fedwarm.core.terminal import put, say
from fedwarm.data.settings import Data
from fedwarm.models import device_of
from fedwarm.settings.fields import SettingError, Value, near


@dataclass(frozen=True)
class Training:
    """What `fedwarm foundation train NAME` was asked.

    Attributes:
        recipe: fields of the recipe that were given.
        data: of a foundation of one's own: the data set, or nothing.
        public: what was given of share, start, jitter and columns; cannot be used without data.
        read: `data.*` settings of how pictures are read, as `-c` takes them; mean nothing without data.
        judged: images that are drawn at each guidance scale, for the judge; means nothing without data.
        device: where it trains: auto, cpu or cuda.
    """

    name: str
    out: Path | None
    recipe: Mapping[str, Value]
    data: str = ""
    public: Mapping[str, Value] = field(default_factory=dict)
    read: Sequence[str] = ()
    judged: int = 400
    device: str = "cpu"


def train_foundation(request: Training) -> None:
    """Train a foundation into a folder, which must be new or hold this foundation, finished or not.

    Raises:
        SettingError: something asked for cannot be; nothing was written.
    """
    from fedwarm.diffusion.foundation import EMBEDDED

    device_of(parse({"device": request.device}).run.device)
    name, embedded = request.name, request.name in EMBEDDED
    if not request.data:
        if not embedded:
            raise SettingError(
                f"unknown foundation {name!r}{near(name, list(EMBEDDED))}; there is {', '.join(EMBEDDED)}, "
                "and --data PATH trains one of your own by any name"
            )
        if request.public or request.read:
            raise SettingError(
                f"--{next(iter(request.public), 'run-config')} needs --data, the images to train on; give it or leave "
                "the option out"
            )
    elif "hands" in request.recipe:
        raise SettingError(f"--hands writes digits for {next(iter(EMBEDDED))!r} alone; leave it out with --data")
    elif embedded:
        raise SettingError(f"{name!r} is the embedded foundation; take another name for one trained on --data {request.data}")
    folder = request.out or Path("foundations") / name
    record = _trained_public(request, folder) if request.data else _trained_glyph(request, folder)
    write_text(folder / "recipe.json", json.dumps(record, indent=1) + "\n")
    put(f"{folder}: {record['seconds']} s, autoencoder error {record['autoencoder_l1']} (L1 on [-1, 1]), {record['quality']}")


def reading(name: str, texts: Sequence[str]) -> Data:
    """The data set with settings of how its pictures are read; SettingError where others are given, which mean nothing here."""
    from fedwarm.diffusion.pretraining.captions import READ
    from fedwarm.settings.text import parse_overrides

    flat, known = parse_overrides(texts), [f"data.{key.replace('_', '-')}" for key in READ]
    if unknown := next((key for key in flat if key not in known), ""):
        raise SettingError(f"{unknown} is not a setting of a foundation{near(unknown, known)}; -c takes {', '.join(known)}")
    return replace(parse(flat).of(Data), name=name)


def _trained_glyph(request: Training, folder: Path) -> dict[str, Any]:
    from fedwarm.core.progress import tick
    from fedwarm.diffusion.pretraining.embedded import pretrain
    from fedwarm.diffusion.pretraining.quality import judged
    from fedwarm.diffusion.pretraining.untrained import EMBEDDED_RECIPE
    from fedwarm.launch.display import shown

    recipe = replace(EMBEDDED_RECIPE, **request.recipe)  # type: ignore[arg-type]
    with shown(f"foundation {request.name}"):
        record = pretrain(folder, recipe, tick, device=device_of(request.device))
        return {**record, "quality": judged(folder, recipe.seed)}


def _trained_public(request: Training, folder: Path) -> dict[str, Any]:
    from fedwarm.core.progress import tick
    from fedwarm.diffusion.pretraining.captions import public_part
    from fedwarm.diffusion.pretraining.public import PUBLIC_RECIPE, STARTS, pretrain_public
    from fedwarm.diffusion.pretraining.quality import AGREES, judged_public
    from fedwarm.launch.display import shown

    given = {
        "public-share": 0.5,
        "public-where": "",
        "from": STARTS[0],
        "jitter": 0.04,
        "image-column": "",
        "label-column": "",
        **request.public,
    }
    share, start, jitter = float(given["public-share"]), str(given["from"]), float(given["jitter"])
    if start not in STARTS:
        raise SettingError(f"--from {start!r} is unknown{near(start, list(STARTS))}; choose one of {', '.join(STARTS)}")
    if given["public-where"] and "public-share" in request.public:
        raise SettingError("--public-share and --public-where cannot be used together; leave one of them out")
    if not 0 < share <= 0.9:
        raise SettingError(f"--public-share {share:g} is out of range; it must be above 0 (no public part) and at most 0.9")
    if not 0 <= jitter < 0.5:
        raise SettingError(f"--jitter {jitter:g} is out of range; it must be at least 0 and below 0.5")
    data = replace(
        reading(request.data, request.read),
        public_share=0.0 if given["public-where"] else share,
        public_where=str(given["public-where"]),
        image_column=str(given["image-column"]),
        label_column=str(given["label-column"]),
    )
    public = public_part(data, jitter)
    recipe = replace(PUBLIC_RECIPE, **request.recipe)  # type: ignore[arg-type]
    with shown(f"foundation {request.name}: {len(public.labels):,} public images of {request.data}"):
        record = pretrain_public(folder, public, recipe, start, tick, device_of(request.device))
        quality = judged_public(folder, public, recipe.seed, drawn=request.judged)
    if quality["judge_on_drawn"] < AGREES:
        say(
            f"fedwarm: a judge agrees with the prompt on {quality['judge_on_drawn']:.0%} of the drawn images only "
            f"({quality['judge_on_real']:.0%} of real ones); take more --unet-steps"
        )
    return {**record, "quality": quality}

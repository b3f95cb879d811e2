"""`fedwarm foundation classifier`: a classifier of what a foundation learned from, as `model.weights` of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedwarm.core.terminal import put
from fedwarm.settings.fields import SettingError


@dataclass(frozen=True)
class Wanted:
    """What was asked: where it goes, what it learns from (settings of a run), how many renders, its seed, and where it trains."""

    out: Path
    settings: Sequence[str] = ()
    images: int = 20_000
    epochs: int = 8
    seed: int = 0
    device: str = "cpu"


def train_classifier(wanted: Wanted) -> None:
    """Train it and write it with a note of what it was trained on.

    Raises:
        SettingError: something asked for cannot be; nothing was written.
    """
    from safetensors.torch import save_file

    from fedwarm.catalogue import parse
    from fedwarm.core.compute import torch_threads
    from fedwarm.core.files import replacing
    from fedwarm.data.provenance import PUBLIC, source_of
    from fedwarm.data.settings import Data
    from fedwarm.diffusion.pretraining.captions import public_part
    from fedwarm.diffusion.pretraining.classifier import DIGITS, of_public, renders, trained
    from fedwarm.launch.display import shown
    from fedwarm.launch.request import absolute
    from fedwarm.models import Model, device_of, merged_state
    from fedwarm.rounds.artefacts import header
    from fedwarm.settings.text import parse_overrides
    from fedwarm.training.plan import Plan

    if wanted.out.suffix != ".safetensors":
        raise SettingError(f"{wanted.out} must be a file's name that ends with .safetensors")
    flat = parse_overrides([*wanted.settings])
    config = parse({**flat, **absolute(flat), "device": wanted.device})
    device = device_of(config.run.device)
    data, settings, sources = config.of(Data), config.of(Model), []
    with shown(f"classifier {wanted.out}"), torch_threads(1):
        if data.public:
            images, labels, classes = of_public(public_part(data))
            sources = [source_of(PUBLIC, data)]
        else:
            (images, labels), classes = renders(wanted.images, data.image_size, wanted.seed), DIGITS
        plan = Plan.of(config.run, epochs=wanted.epochs)
        model, share = trained(settings, plan, images, labels, classes, wanted.seed, device)
    state = merged_state(settings, model.state_dict())
    wanted.out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(wanted.out) as temporary:
        save_file({name: tensor.cpu().contiguous() for name, tensor in state.items()}, temporary, header(sources))
    what = "public images" if data.public else "digits of fonts and pen"
    put(f"{wanted.out}: {len(labels):,} {what}, accuracy {share:.4f} on some that were kept from it")

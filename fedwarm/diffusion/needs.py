"""What tuning and drawing take of memory, counted before a foundation is loaded, on its models without numbers.

Weights and adapters are counted exactly, what is kept for gradients as in `counting`; what operations take for a moment is left
out. So the count is a least: what it does not fit into cannot be done.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from fedwarm.core import placement
from fedwarm.core.capacity import free_bytes
from fedwarm.diffusion.autoencoder import LEAST, picture_bytes
from fedwarm.diffusion.counting import kept_bytes
from fedwarm.diffusion.families import Family
from fedwarm.diffusion.foundation import PRECISIONS, precision_of
from fedwarm.diffusion.lora import adapter_size, attached
from fedwarm.diffusion.offload import give_back
from fedwarm.diffusion.pipeline import folder_family, hush, read_index
from fedwarm.diffusion.presets import folder_of
from fedwarm.diffusion.settings import Diffusion
from fedwarm.diffusion.tuners import Tuner, tuner_for
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError
from fedwarm.settings.kinds import PRIVACY

GB = 1e9
STATES = 4  # of a trained number: itself, its gradient and AdamW's two means, in float32
SINGLE_STATES = 2  # of each image's gradient: itself, and a part of it on the way


@dataclass(frozen=True)
class Need:
    """Bytes, at least.

    Attributes:
        net: weights of the part that denoises.
        vae, encoders: weights of other parts, which rest in the host's memory while a GPU tunes, encoders also while it draws.
        side: of the images in pixels.
        adapter: its numbers, gradients and the optimiser's state.
        kept: what is kept for the gradients of a batch; 0 where it is recomputed (`diffusion.gradient-checkpointing`).
        out: weights of the net's that leave all memory while an adapter is tuned, as the other parts do then; 0: none does.
        picture: what the autoencoder takes for one image.
    """

    net: int
    vae: int
    encoders: int
    side: int
    adapter: int = 0
    kept: int = 0
    out: int = 0
    picture: int = 0

    def tuning(self, device: str) -> int:
        """On a type of device, for an adapter; where weights leave memory for its steps, all of them are asked before."""
        whole = self.net + (self.vae + self.encoders if device == "cpu" else 0)
        return max(whole, self.net - self.out + self.adapter + self.kept) if self.out else whole + self.adapter + self.kept

    def drawing(self, device: str) -> int:
        """On a type of device, while images are drawn: on a GPU sentences are read before anything is decoded."""
        more = self.encoders + self.picture if device == "cpu" else max(self.encoders, self.picture)
        return self.net + self.vae + more


def needs(config: Config, device: str, clients: int) -> Need | None:
    """What a foundation takes on a type of device; None where it is embedded, or its files are not here yet.

    Args:
        clients: how many tune an adapter, of which the one that takes most counts; 0: none does.
    """
    settings = config.of(Diffusion)
    folder = folder_of(settings.foundation)
    if folder is None:
        return None
    try:
        return counted(folder, folder_family(folder), config, PRECISIONS[precision_of(settings, device)], device, clients)
    except (OSError, ValueError, RuntimeError, AttributeError, TypeError):  # left to its loader, which says what is wrong
        return None


def counted(folder: Path, family: Family, config: Config, dtype: torch.dtype, device: str, clients: int) -> Need:
    """The count of a pipeline in a folder, in a precision of the frozen weights."""
    pipe, settings = bare(folder, family), config.of(Diffusion)
    net = getattr(pipe, family.net).to(dtype).requires_grad_(False)
    wide = torch.float32.itemsize if family.is_wide(pipe.vae) else dtype.itemsize
    sizes = {part: (wide if part == "vae" else dtype.itemsize) * _numbers(getattr(pipe, part)) for part in family.models}
    side = settings.image_size or int(net.config.sample_size) * pipe.vae_scale_factor
    picture, tuner = picture_bytes(pipe.vae, side, wide, LEAST), tuner_for(config)
    plain = Need(sizes[family.net], sizes["vae"], sum(sizes[part] for part in family.encoders), side, picture=picture)
    tuned = [_tuned(plain, pipe, family, tuner, client, _together(config)) for client in tuner.kinds(clients)]
    return max(tuned, key=lambda need: need.tuning(device), default=plain)


def _together(config: Config) -> int:
    """How many images of a batch have gradients of their own at a time, as steps are private; 0: none has."""
    together = getattr(PRIVACY.load(config.run.privacy), "together", None)
    return 0 if together is None else together(config, config.of(Diffusion).lora_batch_size)


def _tuned(plain: Need, pipe: Any, family: Family, tuner: Tuner, client: int, together: int) -> Need:
    """The count with a client's adapter; for `together` see `_together`."""
    net, latent = getattr(pipe, family.net), plain.side // pipe.vae_scale_factor
    steps = tuner.steps(net, client, net.dtype, family.told(pipe)[0], latent)
    settings, kept = steps.settings, 0
    adapter = 4 * (STATES + SINGLE_STATES * together) * adapter_size(net, settings.rank, settings.targets)
    out = net.dtype.itemsize * sum(map(_numbers, steps.out))
    if not settings.gradient_checkpointing:
        with torch.device("meta"), attached(net, settings, 0, "needs"):
            batch = together or settings.lora_batch_size
            noisy = torch.empty(batch, net.config.in_channels, latent, latent, dtype=net.dtype)
            context, time = torch.empty(batch, *family.told(pipe), dtype=net.dtype), torch.zeros(batch)
            kept = kept_bytes(net, lambda: family.predict(pipe, steps.net, noisy, time, context, plain.side))
    return replace(plain, adapter=adapter, kept=kept, out=out)


def _numbers(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def bare(folder: Path, family: Family) -> Any:
    """The models of a pipeline by its configurations, without numbers."""
    hush()
    index, parts = read_index(folder) or {}, dict[str, Any]()
    for part in family.models:
        library, kind = index[part]
        maker = getattr(importlib.import_module(library), kind)
        if hasattr(maker, "load_config"):
            config = maker.load_config(str(folder / part))
            with torch.device("meta"):
                parts[part] = maker.from_config(config)
        else:
            config = maker.config_class.from_json_file(str(folder / part / "config.json"))
            with torch.device("meta"):
                parts[part] = maker(config)
    return SimpleNamespace(**parts, vae_scale_factor=1 << (len(parts["vae"].config.block_out_channels) - 1))


def room(device: torch.device, clients: int) -> tuple[int, str]:
    """Bytes of memory that are free, and of what: of the host's, or of that card which has least of those that a run computes on.

    Args:
        clients: how many tune an adapter, which go over the cards in turn, as do their images; 0: all cards count.
    """
    if device.type == "cpu":
        return free_bytes(), "this machine"
    give_back()
    used = placement.devices()[: clients or None]
    return min((int(torch.cuda.mem_get_info(card)[0]), str(card)) for card in used)


def plan(config: Config, device: torch.device, clients: int) -> str:
    """What a run takes of memory in one line; empty where nothing tells.

    Args:
        config: its settings.
        device: where it computes.
        clients: how many tune an adapter, beside images drawn; 0: none does.

    Raises:
        SettingError: it is more than the device has.
    """
    settings, found = config.of(Diffusion), needs(config, device.type, clients)
    if found is None:
        return ""
    drawing = found.drawing(device.type)
    most = max(drawing, found.tuning(device.type) if clients else 0)
    have, where = room(device, clients)
    start = f"diffusion.foundation = {settings.foundation!r} takes at least"
    if most > have:
        smaller = f"{config.run.privacy}.chunk" if _together(config) > 1 else "diffusion.lora-batch-size"
        remedy = f"set diffusion.gradient-checkpointing=true, lower {smaller} or diffusion.image-size"
        raise SettingError(
            f"{start} {most / GB:.1f} GB, and {have / GB:.1f} GB of {where} are free; {remedy}, or take a smaller one"
        )
    parts = (
        f"{found.tuning(device.type) / GB:.1f} GB for an adapter (batches of {settings.lora_batch_size}) and " if clients else ""
    )
    return f"{start} {parts}{drawing / GB:.1f} GB for images, at {found.side} pixels; {have / GB:.1f} GB of {where} are free"

"""Whether a foundation is one that can be tuned and drawn: sampler, schedule of noise, latents, and the side of its images."""

from __future__ import annotations

from pathlib import Path

from fedwarm.core.files import read_object
from fedwarm.diffusion import autoencoder
from fedwarm.diffusion.families import Family
from fedwarm.diffusion.pipeline import folder_family, read_index
from fedwarm.diffusion.presets import folder_of
from fedwarm.diffusion.settings import Diffusion
from fedwarm.settings.fields import SettingError
from fedwarm.settings.kinds import SAMPLERS


def check_sampler(family: Family, settings: Diffusion) -> None:
    """Refuse a sampler that a family cannot be drawn by.

    Raises:
        SettingError: it follows straight paths, which the sampler does not know.
    """
    if family.flow and not getattr(SAMPLERS.load(settings.scheduler), "flows", False):
        good = [name for name in SAMPLERS if getattr(SAMPLERS.load(name), "flows", False)]
        raise SettingError(
            f"diffusion.scheduler = {settings.scheduler!r} knows no straight paths from noise, which diffusion.foundation = "
            f"{settings.foundation!r} follows; choose one of {', '.join(good)}"
        )


def check_kind(folder: Path, settings: Diffusion) -> Family:
    """The family of a foundation in a folder, of which the configurations alone need be there.

    Raises:
        SettingError: it cannot be tuned and drawn, or not by the sampler.
    """
    family, index = folder_family(folder), read_index(folder) or {}
    check_sampler(family, settings)
    if folder_of(settings.foundation) is None:  # the embedded one is known, and a run that has it need not wait for diffusers
        return family
    import diffusers

    try:
        kind = getattr(diffusers, index["scheduler"][1])
        scheduler = kind.from_config(kind.load_config(str(folder / "scheduler")))
    except (OSError, ValueError, LookupError, AttributeError, TypeError):  # left to the loader, which says what is wrong
        return family
    family.refuse_schedule(scheduler, settings.foundation)
    autoencoder.refuse_unknown(read_object(folder / "vae" / "config.json"), settings.foundation)
    return family


def check_side(side: int, step: int, most: int = 0) -> None:
    """Refuse a side of images that a foundation cannot have: no multiple of `step`, or above `most` where that is not 0."""
    if side % step:
        near = max(step, round(side / step) * step)
        raise SettingError(f"diffusion.image-size = {side} is no multiple of {step}, as this foundation needs; set it to {near}")
    if most and side > most:
        raise SettingError(f"diffusion.image-size = {side} is more than this foundation can draw; set it to at most {most}")

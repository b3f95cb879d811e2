"""Where each client's net is cut: what clients, the server and the checks before a run agree on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from fedwarm.diffusion.foundation import Foundation, locate
from fedwarm.diffusion.settings import Diffusion
from fedwarm.diffusion.tuners import INSTEAD
from fedwarm.diffusion.tuners.hollowed.cuts import Cut, check_cuttable, cut_at, kept_layers, no_unet
from fedwarm.diffusion.tuners.hollowed.memory import TOKENS, affordable_depth
from fedwarm.diffusion.tuners.hollowed.settings import AUTO, NONE, Hollowed, depth_of
from fedwarm.settings.fields import SettingError

T = TypeVar("T")
MORE_INPUTS = ("addition_embed_type", "class_embed_type", "num_class_embeds", "encoder_hid_dim_type")


def cut_of(foundation: Foundation, settings: Diffusion, hollowed: Hollowed, client: int) -> Cut | None:
    """The cut of a client by the settings, None for plain LoRA.

    Raises:
        SettingError: the foundation's backbone cannot be cut, or not so; nothing has been done then.
    """
    tokens = int(foundation.pipe.tokenizer.model_max_length)
    unet, side = foundation.net, foundation.latent_size
    return planned_cut(unet, settings, hollowed, client, foundation.dtype, min(tokens, TOKENS), side)


def planned_cut(
    unet: Any, settings: Diffusion, hollowed: Hollowed, client: int, dtype: torch.dtype, tokens: int = TOKENS, side: int = 0
) -> Cut | None:
    """As `cut_of`, on a U-Net that may be without numbers.

    Args:
        dtype: of the frozen weights; a budget of memory is counted in it.
        tokens: of a sentence, of which it is counted.
        side: of a latent; 0: the net's own.
    """
    depth = depth_of(hollowed, client)
    if depth == NONE:
        return None
    check_cuttable(unet)
    _check_inputs(unet.config)
    if depth == AUTO:
        depth = affordable_depth(unet, settings, dtype, hollowed.memory_budget_mb, tokens, side)
    cut = cut_at(unet, depth)
    kept_layers(unet, cut, settings.targets)
    if hollowed.cache == "residual" and cut.channels_in != cut.channels_out:
        raise SettingError(
            f"hollowed.cache = 'residual' needs one shape at both ends of the core; at depth {depth} they have {cut.channels_in} "
            f"and {cut.channels_out} channels; set hollowed.cache = 'output'"
        )
    return cut


def _check_inputs(config: Any) -> None:
    """Refuse a net that is told more than noise, time and a sentence, which is all that tuning tells it."""
    more = [name for name in MORE_INPUTS if config.get(name) is not None]
    if more:
        raise SettingError(
            f"this U-Net takes more inputs than noise, time and a prompt: {', '.join(more)}; {INSTEAD}, or another foundation"
        )


def outside(cut: Cut | None, named: Mapping[str, T]) -> dict[str, T]:
    """What is not the core's, by name."""
    return {name: value for name, value in named.items() if cut is None or not cut.holds(name)}


def bare_unet(name: str) -> Any | None:
    """The U-Net of a foundation in a folder, from its configuration alone and without numbers; None of one from the Hub.

    Raises:
        SettingError: there is no such foundation, or its backbone is no U-Net.
    """
    from diffusers import UNet2DConditionModel

    _refuse_transformer(Path(name))
    source = Path(locate(name))
    if not source.is_dir():
        return None
    try:
        config = UNet2DConditionModel.load_config(source / "unet")
        kind = str(config.get("_class_name", UNet2DConditionModel.__name__))
        if kind != UNet2DConditionModel.__name__:
            raise no_unet(kind)
        with torch.device("meta"):
            return UNet2DConditionModel.from_config(config)
    except (OSError, RuntimeError):
        return None


def _refuse_transformer(folder: Path) -> None:
    """Say why a pipeline with a transformer cannot be cut, before it is refused for not being Stable Diffusion."""
    index = folder / "model_index.json"
    try:
        known = json.loads(index.read_text()) if index.is_file() else {}
    except (ValueError, OSError):
        return
    part = known.get("transformer") if isinstance(known, dict) else None
    if isinstance(part, list) and part and part[-1]:
        raise no_unet(str(part[-1]))

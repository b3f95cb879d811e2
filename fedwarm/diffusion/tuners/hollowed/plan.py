"""Which part of an adapter each client trains: what clients, the server and the checks before a run agree on.

A client's depth follows from the settings and the foundation, so that the server knows its matrices by name. Where a client is
to find its depth by itself, from its budget of memory in its own precision, the server takes the matrices of any depth.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch

from fedwarm.core.arrays import Arrays
from fedwarm.diffusion.foundation import EMBEDDED, PRECISIONS, Foundation, locate
from fedwarm.diffusion.settings import Diffusion
from fedwarm.diffusion.tuners.hollowed.cuts import Cut, check_cuttable, cut_at, cuts, kept_layers, no_unet
from fedwarm.diffusion.tuners.hollowed.memory import TOKENS, affordable_depth
from fedwarm.diffusion.tuners.hollowed.settings import (
    AUTO,
    NONE,
    Hollowed,
    aligned,
    check_together,
    depth_of,
    targets_of,
    unsettled,
)
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError

T = TypeVar("T")
MORE_INPUTS = ("addition_embed_type", "class_embed_type", "num_class_embeds", "encoder_hid_dim_type")


def cut_of(foundation: Foundation, settings: Diffusion, hollowed: Hollowed, client: int) -> Cut | None:
    """The cut of a client by the settings, None for plain LoRA.

    Raises:
        SettingError: the foundation's backbone cannot be cut, or not so; nothing has been done then.
    """
    tokens = int(foundation.pipe.tokenizer.model_max_length)
    return planned_cut(foundation.pipe.unet, settings, hollowed, client, foundation.dtype, min(tokens, TOKENS))


def planned_cut(
    unet: Any, settings: Diffusion, hollowed: Hollowed, client: int, dtype: torch.dtype, tokens: int = TOKENS
) -> Cut | None:
    """As `cut_of`, on a U-Net that may be without numbers.

    Args:
        dtype: of the frozen weights; a budget of memory is counted in it.
        tokens: of a sentence, of which it is counted.
    """
    depth = depth_of(hollowed, client)
    if depth == NONE:
        return None
    check_cuttable(unet)
    _check_inputs(unet.config)
    if depth == AUTO:
        depth = affordable_depth(unet, settings, dtype, hollowed.memory_budget_mb, tokens)
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
        raise SettingError(f"tuning tells a U-Net noise, time and a sentence; this one has {', '.join(more)}, too")


def outside(cut: Cut | None, named: Mapping[str, T]) -> dict[str, T]:
    """What is not the core's, by name."""
    return {name: value for name, value in named.items() if cut is None or not cut.holds(name)}


@dataclass(frozen=True)
class Parts:
    """What each client sends of an adapter, as the server knows it.

    Attributes:
        foundation, settings, hollowed: see `cut_of`.
        matrices: names, shapes and dtypes of the whole adapter, which plain LoRA sends.
        beside: what every client sends with it.
    """

    foundation: Foundation
    settings: Diffusion
    hollowed: Hollowed
    matrices: Arrays
    beside: Arrays

    @cached_property
    def whole(self) -> Arrays:
        """All that plain LoRA sends."""
        return {**self.matrices, **self.beside}

    @cached_property
    def _known(self) -> dict[int, Arrays]:
        return {}

    def of(self, client: int) -> Arrays:
        """What lies outside a client's core; all of it where only the client knows its depth.

        Raises:
            SettingError: see `cut_of`.
        """
        if self.settings.trainer != "hollowed":
            return self.whole
        depth = depth_of(self.hollowed, client)
        if depth not in self._known:
            own = unsettled(self.hollowed, client)
            cut = None if own else cut_of(self.foundation, self.settings, self.hollowed, client)
            self._known[depth] = outside(cut, self.whole) if cut else self.whole
        return self._known[depth]

    def union(self, clients: Iterable[int]) -> Arrays:
        """What any of the clients may send: the longest part, as each cut lies in the next one."""
        return max(map(self.of, clients), key=len)

    def answered(self, client: int, names: Iterable[str]) -> Arrays:
        """What a client's reply with arrays of these names must hold.

        Raises:
            ValueError: the names are another depth's than this client's, or of no depth where any will do.
        """
        told, own = set(names), self.of(client)
        if self.settings.trainer != "hollowed":
            return own
        found = next(((d, part) for d, part in self._at_depths() if part.keys() == told), None)
        if unsettled(self.hollowed, client):
            if found is None:
                raise ValueError(f"its {len(told)} arrays are those of no depth of this foundation")
            return found[1]
        if told != own.keys() and (found is not None or told == self.whole.keys()):
            told_depth, given = found[0] if found else NONE, depth_of(self.hollowed, client)
            raise ValueError(f"its adapter is that of depth {told_depth}; client {client} has depth {given} by hollowed.depth(s)")
        return own

    def _at_depths(self) -> Iterator[tuple[int, Arrays]]:
        for cut in cuts(self.foundation.pipe.unet, self.settings.targets):
            yield cut.depth, outside(cut, self.whole)

    def used(self, sent: Mapping[int, Arrays]) -> dict[int, Arrays]:
        """What images are drawn from, by client: the adapters with the matrices that `hollowed.mixed` leaves or gives them."""
        if self.settings.trainer != "hollowed":
            return dict(sent)
        return dict(zip(sent, aligned(list(sent.values()), self.hollowed.mixed), strict=True))

    def attaching(self, adapter: Mapping[str, object]) -> Diffusion:
        """The settings for an adapter of some layers: attached by them it holds exactly its matrices."""
        whole = len(adapter) in (0, len(self.matrices))
        return self.settings if whole else replace(self.settings, targets=targets_of(adapter))


def check_plan(config: Config, clients: int) -> None:
    """Refuse before any work what cannot be cut or does not go together; a foundation that is no folder is left to its loader.

    Raises:
        SettingError: in one line, why.
    """
    check_together(config)
    diffusion, hollowed = config.of(Diffusion), config.of(Hollowed)
    by_depth = {depth_of(hollowed, client): client for client in range(clients)}
    unet = bare_unet(diffusion.foundation)
    narrow = torch.float32 if diffusion.foundation in EMBEDDED else torch.float16  # what `auto` comes to at best
    dtype = PRECISIONS.get(diffusion.precision, narrow)
    for client in by_depth.values() if unet is not None else ():
        planned_cut(unet, diffusion, hollowed, client, dtype)


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

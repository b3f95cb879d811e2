"""Replies that differ from client to client, by groups of weights: what came of one, and what they go with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedwarm.aggregators import Robust
from fedwarm.codecs import codec_for
from fedwarm.codecs.stochastic_rounding import Rounded
from fedwarm.core.arrays import Arrays
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError
from fedwarm.settings.kinds import CODECS, RULES
from fedwarm.sparse.groups import Floats, Mask, Masks
from fedwarm.training.sizes import layers_of


@dataclass(frozen=True)
class Taken:
    """What came of one client.

    Attributes:
        had: the groups that it was sent (G,).
        values: v of each group (G,): 1, or its probability; 0 where it did not send it.
        chosen: the numbers that it sent.
        arrays, reference: the model's tensors with them, and with what it was sent in their place.
    """

    had: Mask
    values: Floats
    chosen: Masks
    arrays: Arrays
    reference: Arrays


def bits_of(config: Config) -> int:
    """Bits that a weight is rounded to on its way up; 0: none.

    Raises:
        SettingError: another codec is chosen, which takes uploads that are alike.
    """
    codec = codec_for(config)
    if codec.codes and not isinstance(codec, Rounded):
        raise SettingError(
            f"codec = {config.run.codec!r} takes uploads that are alike, and {config.run.method}'s clients send different "
            f"groups; use codec = {CODECS.first!r}, or stochastic-rounding, which rounds the groups that are sent"
        )
    return codec.bits if isinstance(codec, Rounded) else 0


def validated(config: Config) -> None:
    """Refuse what does not go together.

    Raises:
        SettingError: a codec or a robust rule that takes replies that are alike.
    """
    bits_of(config)
    rule = config.of(Robust).rule
    if rule != RULES.first:
        raise SettingError(
            f"robust.rule = {rule!r} compares replies that are alike, and {config.run.method}'s clients send different groups; "
            f"use robust.rule = {RULES.first!r}, with robust.clip-norm if updates should be bounded"
        )


def check(config: Config, known: Any) -> None:
    """Refuse a classifier that has running statistics.

    Raises:
        SettingError: it has.
    """
    layers = layers_of(config, known)
    refuse_statistics({} if layers is None else dict(layers.named_buffers()))


def refuse_statistics(buffers: Mapping[str, object]) -> None:
    """See that a classifier has no buffers.

    Raises:
        SettingError: it has, as with batch normalisation.
    """
    if buffers:
        raise SettingError(
            f"the model keeps statistics beside its weights ({next(iter(buffers))!r}), and those of a part of a network do not "
            "hold for the whole; use model.norm = 'group' or another model.name"
        )

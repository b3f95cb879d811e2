"""The sampler that the foundation's pipeline came with."""

from __future__ import annotations

from typing import Any

from fedwarm.settings.registry import component


@component(flows=True)
def foundation(own: Any) -> Any:
    """A fresh scheduler of the class of the foundation's own."""
    clips = {"clip_sample": False} if "clip_sample" in own.config else {}
    return type(own).from_config(own.config, **clips)


COMPONENT = foundation

"""The sampler that the foundation's pipeline came with."""

from __future__ import annotations

from typing import Any


def foundation(own: Any) -> Any:
    """A fresh scheduler of the class of the foundation's own."""
    return type(own).from_config(own.config, clip_sample=False)


COMPONENT = foundation

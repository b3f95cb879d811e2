"""Heads: what the last layer of a classifier is, by the setting `model.head`, whatever the architecture.

A component is a function (layer) -> None, or with its settings behind, that changes the last layer in place when a model is
built. It draws nothing, and the layer's tensors keep their names and shapes: who reads a model builds it by the same settings.
`own` leaves the architecture's. Fact beside it (`registry.component`):

- `fixed`: its tensors follow from their shapes alone and are never trained, so that they do not travel, and those of
  `model.weights` are not taken

A kind, and not a list of choices, because methods live on it, as on normalisations.
"""

from __future__ import annotations

from typing import Any


def fixed(head: Any) -> bool:
    """Whether a head's tensors follow from their shapes alone and are never trained."""
    return bool(getattr(head, "fixed", False))

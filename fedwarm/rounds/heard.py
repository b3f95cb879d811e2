"""What a client keeps from round to round as its server counts it: a new state holds once the server has heard of it."""

from __future__ import annotations

from torch import Tensor

from fedwarm.core.store import Store

HEARD = "heard"  # the last round of which the server took this client's reply in; 0: none


def counted(store: Store, own: str, sent: str, heard: int) -> dict[str, Tensor] | None:
    """The state `sent` of the last round of which the server has heard; None where it has of none, or this client lost it.

    Args:
        store: the client's.
        own: the name under which it is kept from then on, as later ones of which nobody heard take its place under the other.
        sent: the name under which a round puts its new state.
        heard: the round.
    """
    if heard in store.steps(sent) and heard not in store.steps(own):
        store.save(own, store.load(sent, before=heard + 1) or {}, heard)
    return store.load(own, before=heard + 1) if heard else None

"""Which reply of a round is too long to be used, beside the model and the replies of earlier rounds."""

from __future__ import annotations

from collections.abc import Container, Sequence

from fedwarm.core.arrays import Arrays
from fedwarm.core.norms import reference_norm, too_large, too_long, update_norm
from fedwarm.core.payload import PayloadError
from fedwarm.objectives import is_learned


def checked_length(arrays: Arrays, expected: Arrays, known: Container[str], before: Sequence[float], limit: float) -> float:
    """The norm of a reply's update; 0 where clients begin to learn arrays beside the weights, whole and not as a change.

    Args:
        arrays: the reply's.
        expected: what it is the update of.
        known: the names that the server holds.
        before: the norms of earlier rounds.
        limit: the setting `robust.limit`.

    Raises:
        PayloadError: it is far longer than the model or, where nothing is new, than those of earlier rounds.
    """
    new = any(is_learned(name) and name not in known for name in expected)
    length = update_norm(arrays, expected)
    if too_large(length, reference_norm(expected), [] if new else before, limit):
        raise PayloadError(too_long(length, limit))
    return 0.0 if new else length

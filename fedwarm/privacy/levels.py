"""How much of what leaves a client its account covers, and what may leave beside that."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

ARRAYS = "arrays"  # stands for a message's arrays among the names of what it holds
PRICED = "priced: "  # how the reason begins where an account pays for what a name tells
Reasons = Mapping[str, str]


class Level(IntEnum):
    """Whose data the account covers; the higher, the less may leave beside it.

    Attributes:
        OPEN: there is no account.
        FACTS: of some facts alone, as of a histogram with noise; arrays leave without any.
        EXAMPLE: of a training image. How many images a client has is public (adjacency `zero_out`).
        CLIENT: of all training images of a client together. How many there are is not public.
    """

    OPEN = 0
    FACTS = 1
    EXAMPLE = 2
    CLIENT = 3

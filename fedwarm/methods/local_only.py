"""The baseline without federation."""

from functools import partial

from fedwarm.methods import Method
from fedwarm.training.private import refuse_hidden

COMPONENT = Method(
    "LocalOnly",
    "baseline: each client trains alone; nothing is shared",
    averages=False,
    stacks=True,
    validate=partial(refuse_hidden, does="sends no model", remedy="leave codec out"),
    does=lambda run: {
        **dict.fromkeys(("uploads", "averages", "weighs", "shares", "samples"), False),
        "personal": True,
        "begins": True,
    },
)

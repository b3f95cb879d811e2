"""The baseline without federation."""

from fedwarm.methods import Method

COMPONENT = Method(
    "LocalOnly",
    "baseline: each client trains alone; nothing is shared",
    averages=False,
    stacks=True,
    does=lambda run: {"uploads": False, "averages": False, "weighs": False, "shares": False, "samples": False, "personal": True},
)

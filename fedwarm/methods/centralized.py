"""The reference that a federation is measured against."""

from fedwarm.methods import Method

COMPONENT = Method(
    "Centralized",
    "reference, not federated: one model trained on everybody's data together",
    reference=True,
    does=lambda run: {"samples": False, "apart": False},
    refuses={"augment": "trains on everybody's data together", "robust.rule": "has one update alone"},
)

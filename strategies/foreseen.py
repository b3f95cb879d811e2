"""How long the stages of WarmFed take, foreseen before they are run."""

from __future__ import annotations

from collections.abc import Sequence

from fedwarm.core.stages import Effort
from fedwarm.methods.warmfed import START, WarmFed, quota
from fedwarm.settings.config import Config

OPERATION = 3.3e-11  # seconds of one of a classifier, forwards: 0.3 ms to train on an image what takes 9 million


def efforts(config: Config, held: Sequence[tuple[int, int]], operations: float) -> dict[str, Effort]:
    """How long the stages of a name take (see `fedwarm.rounds.outline`), good to a factor of about two beside each other.

    Args:
        held: (images, classes present) of each client.
        operations: floating-point operations of the classifier's answer to one image.
    """
    from fedwarm.diffusion.hours import Work, hands_of
    from fedwarm.diffusion.hours import efforts as hours

    s, run, once = config.of(WarmFed), config.run, OPERATION * operations
    originals = tuple(examples for examples, _ in held)
    images = sum(present * quota(s, examples, present) for examples, present in held)
    spent = (0.0, 0.0) if s.pool else hours(config, Work(originals if s.adapts else (), images))
    if spent is None:
        return {}
    alone = s.epochs_local if s.finetune_targets == "local_and_aggregate" else 0
    known = sum(originals) * once / hands_of(config, len(held))
    taught = known * s.teacher_epochs * max(1, s.teacher_folds - 1) * (s.selection != "never" and s.teacher_first == "local")
    rounds = 0 if s.protocol == "one-shot" else run.num_server_rounds
    tuned = images * once * (alone + s.epochs_aggregate) * (s.server_tuning != START)
    again = spent[1] if s.regenerate_each_round and s.server_tuning != START else 0.0
    return {
        "adapt": Effort(spent[0], "adapter"),
        "generate": Effort(spent[1], "images"),
        "warm start": Effort(0.0 if s.warmed else images * once * (alone + s.epochs_warm)),
        "round": Effort(known * (run.local_epochs + s.distill_epochs) + taught / max(1, rounds) + tuned + again),
        "distill": Effort(known * s.distill_epochs + (0.0 if rounds else taught)),
    }

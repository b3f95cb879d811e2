"""Lines before a run: what its components say that it will take, and which classes its foundation does not know."""

from __future__ import annotations

from collections.abc import Iterator

from fedwarm.data.settings import Data
from fedwarm.diffusion.settings import Diffusion
from fedwarm.settings.config import Config


def outlook(config: Config, clients: int) -> Iterator[str]:
    """What a user should know before a run of so many clients, one line each."""
    from fedwarm.data.classes import listed
    from fedwarm.data.shards import open_table
    from fedwarm.diffusion.needs import plan
    from fedwarm.diffusion.terms import terms
    from fedwarm.models import device_of
    from fedwarm.relevance import Run
    from fedwarm.rounds.foundation_words import remark

    data = config.of(Data)
    if text := remark(config, listed(data.classes) if data.own else open_table(data).label.names):
        yield text
    run = Run.of(config)
    if run.generates or run.draws:
        diffusion = config.of(Diffusion)
        tuned = clients if run.adapts else 0
        yield from filter(None, (terms(diffusion.foundation), plan(config, device_of(config.run.device), tuned)))
    for component in run.chosen:
        if hasattr(component, "outlook"):
            yield from component.outlook(config, clients)
        if getattr(component, "reach", None) is not None:
            yield from filter(None, component.reach(run, config, clients))

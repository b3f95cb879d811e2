"""What a run with DP-SGD can come to, said before it starts: an image's epsilon, and how long the noise of a step is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from math import sqrt
from typing import Any

from fedwarm.data.settings import Data
from fedwarm.data.shards import partition_table
from fedwarm.privacy.mechanisms.dp_sgd.account import DpSgd, Steps, example_epsilon, noise_of, rate_of
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError
from fedwarm.training.plan import steps_of
from fedwarm.training.sizes import sizes_of


def lines(run: Any, config: Config, clients: int) -> Iterator[str]:
    """Of a run that trains the classifier alone, for the client with the fewest images, whose images pay the most.

    Args:
        run: its `relevance.Run`.
        config: its settings.
        clients: how many there are.
    """
    general, settings, data = config.run, config.of(DpSgd), config.of(Data)
    if data.own or not run.trains or run.adapts or run.taught:
        return
    with suppress(SettingError):  # what cannot be is refused by who needs it
        fewest = min(sum(row) for row in partition_table(data, general.seed, clients))
        rate, rounds = rate_of(fewest, general.batch_size), general.num_server_rounds
        steps = rounds * steps_of(fewest, general.batch_size, general.local_epochs)
        noise, size = noise_of(settings, [(rate, steps)]), sum(sizes_of(config))
        epsilon, each = example_epsilon([Steps(rate, noise, steps)], settings.delta), rate * fewest
        kind = "certified" if settings.entropy == "system" else "seeded, for experiments"
        yield (
            f"epsilon {epsilon:.4g} at delta {settings.delta:g} of one image of a client with the fewest, {fewest}, "
            f"over {steps} steps: view example, {kind}"
        )
        yield (
            f"a step's mean gradient is {settings.clip:g} long at most (dp-sgd.clip), the noise on its {size} numbers about "
            f"{noise * settings.clip * sqrt(size) / each:.3g}: signal to noise {each / noise / sqrt(size):.2g} a step; "
            "more examples a step (batch-size) or a smaller model raise it"
        )

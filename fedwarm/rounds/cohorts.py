"""How many of a run's clients train together on one device, why others cannot, and how many processes are good for them."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

import torch
from torch import nn

from fedwarm.core import placement
from fedwarm.diffusion.settings import Diffusion
from fedwarm.diffusion.sizes import loaded_bytes
from fedwarm.methods import method_of
from fedwarm.objectives import hooks_of
from fedwarm.privacy.limits import Limits
from fedwarm.relevance import Run
from fedwarm.settings.config import Config
from fedwarm.settings.kinds import PRIVACY
from fedwarm.training import cohort
from fedwarm.training.plan import Plan

USUAL = 50  # on every card alike, since it is part of the result
LEAST = 2


def asked(config: Config) -> int:
    """How many clients are to train together by the settings; 0: none."""
    wanted = config.run.cohort
    if wanted < 0:
        return USUAL if placement.on_gpu(config.run.device) else 0
    return wanted if wanted >= LEAST else 0


def size(config: Config, clients: int) -> int:
    """How many of so many clients train together, where an engine has them in one process; 0: one after another."""
    found = min(asked(config), clients)
    return found if found >= LEAST and not obstacle(config) else 0


def workers(config: Config, clients: int) -> int:
    """How many processes clients on GPUs are good for: one a card, as far as there is a stack for each; 0: they are on a CPU.

    More processes on one card are slower (measured on one H100: in process 2.04 times a bare loop, with four 3.96).
    """
    if not placement.on_gpu(config.run.device):
        return 0
    return min(placement.cards(), ceil(clients / max(1, size(config, clients))))


def holds(config: Config) -> int:
    """Bytes of the foundation that each process loads whose clients tune or draw, and the server; 0: they do neither."""
    run = Run.of(config)
    return loaded_bytes(config.of(Diffusion).foundation) if run.adapts or run.draws else 0


def obstacle(config: Config) -> str:
    """Why clients of these settings cannot train together, as part of a sentence; empty where nothing speaks against it."""
    if not Run.of(config).trains or not method_of(config).stacks:
        return f"method = {config.run.method!r} does more in a round than to train the run's model by its settings"
    if config.run.privacy != PRIVACY.first:
        return f"privacy = {config.run.privacy!r} makes steps of one client's examples"
    if config.of(Limits).most_epsilon:
        return "limits.most-epsilon has one message at a time at the account"
    last = config.run.num_server_rounds
    hooks = [*hooks_of(config, last, torch.Generator()), *method_of(config).local_hooks(config)]
    return cohort.obstacle(Plan.of(config.run), hooks)


def remark(config: Config, together: int, make: Callable[[], nn.Module]) -> str:
    """Why clients train one after another though the settings ask for more; empty where they do not ask, get it, or do not train.

    Args:
        together: what the engine has train together, 0 where it cannot.
        make: the run's model.
    """
    if not asked(config) or not Run.of(config).trains:
        return ""
    why = obstacle(config) or cohort.model_obstacle(make())
    if not why and not together:
        why = "this engine has each in a process of its own" if config.run.cohort > 0 else ""
    return f"clients train one after another (cohort = {config.run.cohort}): {why}" if why else ""

"""A site's policy held against a run's settings, and its account of epsilon kept by one message at a time."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from fedwarm.catalogue import flagged, parse
from fedwarm.core.files import make_folder, writing
from fedwarm.core.policy import Policy
from fedwarm.settings.config import Config
from fedwarm.settings.fields import Value, defaults

LOCK = "account.lock"


def enforce(policy: Policy, told: Config, action: str) -> None:
    """Refuse a message of a run, before anything of the site's data is opened.

    Args:
        policy: the site's.
        told: the run's settings as the server told them.
        action: what the message asks for.

    Raises:
        RefusalError: the site does not allow it.
    """
    policy.check_run(told.run.method, differing(told))
    policy.check_action(action)


def differing(config: Config) -> set[str]:
    """The settings that a run changes from its method's defaults, but for those that change nothing at a client."""
    usual = defaults(tuple(config.groups)) | _usual(config.run.method)
    return {key for key, value in config.flat().items() if value != usual[key]} - flagged("neutral") - flagged("free")


@lru_cache(maxsize=16)
def _usual(method: str) -> dict[str, Value]:
    return parse({"method": method}).flat()


@contextmanager
def accounted(root: Path, bounded: bool) -> Iterator[None]:
    """Where a site bounds its epsilon, only one message at a time looks at its account and adds to it."""
    if not bounded:
        yield
        return
    make_folder(root, 0o700)
    path = root / LOCK
    with writing(path):
        stream = path.open("w")
    with stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield

"""When a run that failed is started again: from its checkpoint, as long as each try comes further than those before it."""

from __future__ import annotations

from collections.abc import Callable

from fedwarm.core.failures import RunError
from fedwarm.engines.deployment.following import say


class Stopped(RunError):  # noqa: N818
    """A person ended the run."""


def persist(
    once: Callable[[bool], None], done: Callable[[], int | None], again: str, ready: Callable[[], None] | None = None
) -> None:
    """Run until it is done; one that fails twice at the same stage is given up.

    Args:
        once: runs it; told whether to go on from its checkpoint.
        done: stages that its checkpoint has; None where there is none.
        again: the command that goes on with it.
        ready: returns when it may be started again; None: the first failure ends it.

    Raises:
        RunError: it failed; the message says how to go on with it where that can be.
    """
    failed: list[int] = []
    while True:
        try:
            return once(bool(failed))
        except RunError as error:
            stage = done()
            if stage is None:
                raise
            if ready is None or isinstance(error, Stopped) or stage in failed:
                raise RunError(f"{error}; continue with: {again}", error.lines) from None
            failed.append(stage)
            say(f"{error}; it is started again after stage {stage}")
        ready()

"""A federation's own audit log: who was let in or shut out, by whom on this machine, and which runs were started."""

from __future__ import annotations

import getpass
import os
from contextlib import suppress

from fedwarm.core.chain import FILE, add
from fedwarm.federation.settings import Federation


def note(federation: Federation, event: str, **facts: str | int) -> None:
    """Add an event to the federation's audit log, with the user that caused it.

    Raises:
        DiskError: it cannot be written.
    """
    user = str(os.getuid())
    with suppress(OSError, KeyError):
        user = getpass.getuser()
    add(federation.folder / FILE, {"event": event, "user": user, **facts})

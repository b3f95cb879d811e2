"""A federation's own audit log: who was let in, shut out or refused, by whom on this machine; which runs were started, and who
joined or refused them.
"""

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

"""Flower's SuperLink, which waits longer for its database and for a node's next request, and takes what is sent again.

Where a disk is slow or a machine busy, a write may wait for another for more than the 5 seconds that Flower gives it. It answers
with an HTTP 500 then, after which a SuperNode asks no more and a ServerApp fails. Here a write may wait for a minute. And a
connection without a request stays open for longer than nodes keep one (`fedwarm.node.line`), not for 5 seconds. Who waits for an
answer sends again after 30 seconds, which is less than a write may wait: `fedwarm.flower.pushing`, `.unheard` and `.beginning`
have that cost nothing.

Whom it does not let in is added to the audit log that `FEDWARM_AUDIT` names: the key's fingerprint and why. An answer of HTTP 401
(a clock that is off, a node that was shut out and calls on) is not, as Flower's log has no line for it; when that node
starts anew it is.

It takes what `flower-superlink` takes: `python -m fedwarm.federation.patient --host ...`.
"""

from __future__ import annotations

import ast
import logging
import os
import re
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path

from fedwarm.flower import beginning, pushing, unheard

COMMAND, PLACE, NAME, PRAGMA = "flower-superlink", "flwr.supercore.sql_mixin", "SQLITE_PRAGMAS", "busy_timeout"
BUSY_SECONDS = 60
KEPT_SECONDS = 90
AUDIT_VARIABLE, MOST_KEYS = "FEDWARM_AUDIT", 1000
UNKNOWN = re.compile(r"\[ApiError:\d+\] Attempted to register SuperNode with public key: (b'[^']*'), exception: (.*)")


class Door(logging.Handler):
    """Adds to an audit log whom the SuperLink does not let in, as its own log tells: a key and reason once, up to a limit."""

    def __init__(self, path: Path) -> None:
        super().__init__(logging.ERROR)
        self.path, self.told = path, set[tuple[str, str]]()

    def emit(self, record: logging.LogRecord) -> None:
        """Append, where it is new; a line that cannot be written is told as logging does it."""
        from fedwarm.core.chain import add
        from fedwarm.node.key import fingerprint_of

        try:
            found = UNKNOWN.search(record.getMessage())
            if found is None or len(self.told) >= MOST_KEYS:
                return
            key, why = news = fingerprint_of(ast.literal_eval(found[1])), found[2]
            if news in self.told:
                return
            self.told.add(news)
            add(self.path, {"event": "refused", "key": key, "why": why})
            if len(self.told) == MOST_KEYS:
                why = f"{MOST_KEYS} keys; more are not noted until the SuperLink starts anew"
                add(self.path, {"event": "refused", "why": why})
        except Exception:
            self.handleError(record)


def install() -> bool:
    """Have connections to a database wait that long; whether this version of Flower has the place for it."""
    try:
        mixin = import_module(PLACE)
        pragmas = dict(getattr(mixin, NAME))
    except (ImportError, AttributeError, TypeError, ValueError):
        return False
    if PRAGMA not in pragmas:
        return False
    setattr(mixin, NAME, tuple({**pragmas, PRAGMA: str(BUSY_SECONDS * 1000)}.items()))
    return True


def main(arguments: Sequence[str]) -> None:
    """Run a SuperLink until it ends."""
    import uvicorn
    from flwr.superlink.cli import flower_superlink

    vars(uvicorn).update(run=partial(uvicorn.run, timeout_keep_alive=KEPT_SECONDS))
    sys.argv = [COMMAND, *arguments]
    if not install():
        print("fedwarm: this version of Flower has another way to wait for its database; it waits as it comes", file=sys.stderr)
    if place := os.environ.get(AUDIT_VARIABLE):
        logging.getLogger("flwr").addHandler(Door(Path(place)))
    if not pushing.install(pushing.SUPERLINK):
        print("fedwarm: this version of Flower keeps objects in another way; what is sent twice may end a run", file=sys.stderr)
    if not unheard.install():
        print("fedwarm: this version of Flower lists messages in another way; who hears no answer gets no other", file=sys.stderr)
    if not beginning.install(pushing.SUPERLINK):
        print("fedwarm: this version of Flower gives tasks away in another way; a busy machine may start no run", file=sys.stderr)
    flower_superlink()


if __name__ == "__main__":
    main(sys.argv[1:])

"""Flower's SuperLink, which waits longer for its database and for a node's next request.

Where a disk is slow or a machine busy, a write may wait for another for more than the 5 seconds that Flower gives it. It answers
with an HTTP 500 then, after which a SuperNode asks no more and a ServerApp fails. Here a write may wait for a minute. And a
connection without a request stays open for longer than nodes keep one (`fedwarm.node.line`), not for 5 seconds.

It takes what `flower-superlink` takes: `python -m fedwarm.federation.patient --host ...`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module

COMMAND, PLACE, NAME, PRAGMA = "flower-superlink", "flwr.supercore.sql_mixin", "SQLITE_PRAGMAS", "busy_timeout"
BUSY_SECONDS = 60
KEPT_SECONDS = 90


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
    flower_superlink()


if __name__ == "__main__":
    main(sys.argv[1:])

"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PRIVATE = 0o600


@contextmanager
def replacing(path: Path, *, private: bool = False, durable: bool = False) -> Iterator[Path]:
    """A temporary name beside `path` to write to; it becomes `path` when the block ends well, and is removed when it does not.

    Args:
        path: the file; its folder is made if need be, and what it held before stays until the new content is complete.
        private: readable by its owner only.
        durable: on the disk before it takes the name, so that a loss of power leaves the old content or the new.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        if private:
            temporary.chmod(PRIVATE)
        if durable:
            settle(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def settle(path: Path) -> None:
    """Wait until what was written to a file is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")

"""Files that are there whole or not at all."""

from __future__ import annotations

import json
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


def order_metadata(path: Path) -> None:
    """Put the metadata of a safetensors file in the order of their names, so that the same content is the same bytes.

    The library writes them in an order that differs from call to call. A file is 8 bytes with the header's length, the header as
    JSON, and the tensors' bytes; the header's text is only put in another order, and so keeps its length.
    """
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        if "__metadata__" not in header:
            return
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(length)
        if len(text) != length:
            raise ValueError(f"the header of {path} cannot be put in order: {len(text)} bytes instead of {length}")
        file.seek(8)
        file.write(text)

"""Files that are there whole or not at all, and what is said where one cannot be written."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PRIVATE = 0o600
ROOM = "make room there or name a folder on another disk"
PERMIT = "permit it or name another folder"
REMEDIES = {
    errno.ENOSPC: ROOM,
    errno.EDQUOT: ROOM,
    errno.EFBIG: "raise the limit on a file's size (ulimit -f) or name a folder on another disk",
    errno.EROFS: "name a folder on a disk that can be written to",
    errno.EACCES: PERMIT,
    errno.EPERM: PERMIT,
    errno.ENAMETOOLONG: "name a folder with a shorter name",
}
_NUMBER = re.compile(r"os error (\d+)")


class DiskError(OSError):
    """A file or folder that cannot be written: one line with its path, the system's reason and a remedy."""

    def __init__(self, path: Path, number: int) -> None:
        super().__init__(number, os.strerror(number), str(path))

    def __str__(self) -> str:
        remedy = REMEDIES.get(self.errno or 0, "name another folder")
        return f"{self.filename} cannot be written: {self.strerror}; {remedy}"

    def __reduce__(self) -> tuple[type[DiskError], tuple[Path, int]]:
        return DiskError, (Path(self.filename), self.errno or 0)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say of an error of the block, the system's or one that safetensors wraps, which path could not be written, and what to do.

    Raises:
        DiskError: in place of it.
    """
    try:
        yield
    except DiskError:
        raise
    except OSError as error:
        if error.errno is None:
            raise
        raise DiskError(path, error.errno) from error
    except Exception as error:
        told = _NUMBER.search(str(error)) if type(error).__name__ == "SafetensorError" else None
        if told is None:
            raise
        raise DiskError(path, int(told[1])) from error


@contextmanager
def replacing(path: Path, *, private: bool = False, durable: bool = False) -> Iterator[Path]:
    """A temporary name beside `path` to write to; it becomes `path` when the block ends well, and is removed when it does not.

    Args:
        path: the file; its folder is made if need be, and what it held before stays until the new content is complete.
        private: readable by its owner only.
        durable: on the disk before it takes the name, so that a loss of power leaves the old content or the new.

    Raises:
        DiskError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            if private:
                temporary.chmod(PRIVATE)
            if durable:
                settle(temporary)
            os.replace(temporary, path)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def make_folder(path: Path, mode: int = 0o777) -> None:
    """A folder and those above it, where they are not there yet.

    Raises:
        DiskError: it cannot be made.
    """
    with writing(path):
        path.mkdir(parents=True, exist_ok=True, mode=mode)


def try_folder(path: Path) -> None:
    """Make a folder where need be, and see that files can be made in it, before long work whose end is written there.

    Raises:
        DiskError: they cannot.
    """
    make_folder(path)
    with replacing(path / ".try") as temporary:
        temporary.touch()
    (path / ".try").unlink(missing_ok=True)


def settle(path: Path) -> None:
    """Wait until what was written to a file is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_object(path: Path) -> dict[str, Any]:
    """What a file of JSON says by its keys; nothing where it cannot be read, or is no such file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_text(path: Path, text: str, *, durable: bool = False) -> None:
    """Write a text file whole or not at all (see `replacing`)."""
    with replacing(path, durable=durable) as temporary:
        temporary.write_text(text, encoding="utf-8")


def copy_file(source: Path, target: Path) -> None:
    """Copy a file's content; `target` is whole at every moment.

    Raises:
        DiskError: it cannot be written.
    """
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)


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

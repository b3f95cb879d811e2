"""Generated images that this process has read, by file, up to a number of bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from fedwarm.augmentations.gen_fedsd.drawn import Drawn

KEPT_BYTES = 1 << 29


class Memory:
    """Keeps what was read of files that have not changed since; what was asked for longest ago goes first.

    Args:
        limit_bytes: most bytes of images; the newest file stays whatever its size.
    """

    def __init__(self, limit_bytes: int = KEPT_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self._kept: OrderedDict[tuple[str, int, int], Drawn] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, path: Path, read: Callable[[Path], Drawn]) -> Drawn:
        """The content of a file, by `read` where it is not here, whose errors are passed on; OSError where there is none."""
        status = path.stat()
        key = (str(path), status.st_mtime_ns, status.st_size)
        drawn = self._kept.pop(key, None)
        drawn = self._kept[key] = read(path) if drawn is None else drawn
        while len(self) > 1 and sum(part.images.numel() for part in self._kept.values()) > self.limit_bytes:
            self._kept.popitem(last=False)
        return drawn


MEMORY = Memory()

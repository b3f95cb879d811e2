"""The shelf: generated images on a client's own disk, each drawn once and used by every later run that would draw it again.

A shelf is a folder below the clients' root, beside the runs of `core.store.Store`, whose room-making counts it and removes it
like an old run. Its name is a digest of everything that decides an image but its owner (a partition, or the pool), class and
index. An owner and class have files of one batch each, written whole and never changed, for their owner's eyes only.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

from fedwarm.augmentations.gen_fedsd.drawn import Drawn, Owner
from fedwarm.augmentations.gen_fedsd.memory import MEMORY, Memory
from fedwarm.core.files import PRIVATE, DiskError, order_metadata, replacing
from fedwarm.core.store import KEY, MIB, bytes_below
from fedwarm.settings.fields import SettingError

CHUNK = 256
SPEED = "speed.json"
Tell = Callable[[int], Mapping[str, Any]]
Make = Callable[[Sequence[int]], Drawn]


class Shelf:
    """What was drawn by one foundation with one set of settings, in `<root>/<key>`.

    Args:
        root: holds the states of all runs on this machine.
        key: digest of what decides an image, hexadecimal.
        size: S, of the images.
        provenance: what the files of a class tell of it, as JSON.
        limit_mb: most MiB of the shelf.
        chunk: images that are drawn between two writes; a client that is killed loses no more than that.
        memory: keeps what is read; the process's.
    """

    def __init__(
        self,
        root: Path,
        key: str,
        size: int,
        provenance: Tell,
        limit_mb: int = 4096,
        chunk: int = CHUNK,
        memory: Memory = MEMORY,
    ) -> None:
        assert KEY.fullmatch(key), key
        self.folder, self.size, self.provenance = root / key, size, provenance
        self.limit_bytes, self.chunk, self.memory = limit_mb * MIB, chunk, memory

    def take(
        self, owner: Owner, label: int, indices: Sequence[int], make: Make, batch: int = 1, stock: int = 0
    ) -> tuple[Drawn, int]:
        """Images of a class by index, in the order asked, and how many of them were drawn for it now.

        Another process that wants images of the same owner and class waits, and finds what this one drew.

        Args:
            make: draws the images of the given indices, which the shelf lacks.
            batch, stock: images are drawn in multiples of `batch` with others below `stock`, which somebody may ask for later.

        Raises:
            SettingError: the shelf would grow beyond its limit.
        """
        if not indices:
            return Drawn.none(self.size), 0
        with self.locked(owner, label):
            parts = self._parts(owner, label)
            here = _indices(parts)
            missing = sorted(set(indices) - here)
            spare = (i for i in range(stock) if i not in here and i not in set(missing))
            drawn = sorted([*missing, *islice(spare, -len(missing) % batch)])
            for start in range(0, len(drawn), self.chunk):
                parts.append(make(drawn[start : start + self.chunk]))
                self._write(owner, label, parts[-1])
            with suppress(FileNotFoundError):  # another run made room meanwhile
                os.utime(self.folder)
        return _gathered(parts, indices), len(missing)

    def find(self, owner: Owner, label: int, indices: Sequence[int]) -> Drawn:
        """Those of the images that lie here, in the order asked; nothing is drawn and nothing waits."""
        parts = self._parts(owner, label) if indices else []
        here = _indices(parts)
        found = [i for i in indices if i in here]
        return _gathered(parts, found) if found else Drawn.none(self.size)

    def have(self, owner: Owner, label: int) -> set[int]:
        """The indices of all images of an owner and class that lie here."""
        return _indices(self._parts(owner, label))

    def speed(self) -> float | None:
        """Seconds an image, as measured when the shelf was new; None: not measured."""
        try:
            told = json.loads((self.folder / SPEED).read_text())["seconds_per_image"]
            return float(told)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def measured(self, measure: Callable[[], float]) -> float:
        """The speed; where it is not known one process measures it, and the others wait and take its number."""
        known = self.speed()
        if known is None:
            with self._alone(self.folder / "speed.lock"):
                known = self.speed()
                if known is None:
                    known = measure()
                    self.set_speed(known)
        return known

    def set_speed(self, seconds_per_image: float) -> None:
        """Keep the speed, so that a client that starts again has the same budget in images."""
        self._make_folder(self.folder)
        with replacing(self.folder / SPEED, private=True) as temporary:
            temporary.write_text(json.dumps({"seconds_per_image": seconds_per_image}))

    @contextmanager
    def locked(self, owner: Owner, label: int) -> Iterator[None]:
        """Be the only one who draws an owner's images of a class."""
        with self._alone(self.folder / str(owner) / f"{label}.lock"):
            for left in (self.folder / str(owner)).glob(f".{label}.*"):  # by a process that was killed as it wrote
                left.unlink(missing_ok=True)
            yield

    @contextmanager
    def _alone(self, lock: Path) -> Iterator[None]:
        """Hold a lock file; one that somebody who made room removed meanwhile holds nobody, and a new one is taken."""
        descriptor = None
        while descriptor is None:
            with suppress(FileNotFoundError):
                self._make_folder(lock.parent)
                descriptor = _held(lock)
        try:
            yield
        finally:
            os.close(descriptor)  # which unlocks; so does the end of a process that is killed

    def _make_folder(self, folder: Path) -> None:
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            for part in (self.folder, folder):
                part.mkdir(exist_ok=True, mode=0o700)
        except FileNotFoundError:  # another run made room meanwhile, or there is no such place at all
            if self.folder.parent.is_dir():
                raise
            raise DiskError(self.folder.parent, errno.ENOENT) from None
        except OSError as error:
            raise DiskError(self.folder, error.errno or errno.EIO) from error

    def _parts(self, owner: Owner, label: int) -> list[Drawn]:
        """The whole files of an owner and class; damaged ones are removed, as their images can be drawn again."""
        parts = []
        for path in sorted((self.folder / str(owner)).glob(f"{label}.*.safetensors")):
            try:
                parts.append(self.memory.get(path, self._read))
            except FileNotFoundError:
                continue
            except (ValueError, OSError) as error:
                logging.getLogger("flwr").warning("%s is damaged (%s); its images are drawn again", path, error)
                path.unlink(missing_ok=True)
        return parts

    def _read(self, path: Path) -> Drawn:
        """One file; ValueError where it is not what was written."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                drawn = Drawn(**{f.name: file.get_tensor(f.name) for f in fields(Drawn)})
                told = (file.metadata() or {}).get("sha256")
        except SafetensorError as error:
            raise ValueError(str(error).splitlines()[0]) from error
        if drawn.images.shape != (len(drawn), 3, self.size, self.size) or told != _digest(drawn):
            raise ValueError("its content was changed after it was written")
        return drawn

    def _write(self, owner: Owner, label: int, drawn: Drawn) -> None:
        from safetensors.torch import save_file

        used = bytes_below(self.folder) + drawn.images.numel()
        if used > self.limit_bytes:
            raise SettingError(
                f"synthetic images need more than {self.limit_bytes / MIB:.0f} MB below {self.folder}; raise client-state-mb or "
                "set gen-fedsd.pool, cap or budget-mb"
            )
        folder = self.folder / str(owner)
        self._make_folder(folder)
        number = 1 + max((int(p.name.split(".")[1]) for p in folder.glob(f"{label}.*.safetensors")), default=-1)
        told = {**self.provenance(label), "owner": owner, "class": label}
        metadata = {"provenance": json.dumps(told, sort_keys=True), "sha256": _digest(drawn)}
        with replacing(folder / f"{label}.{number:06d}.safetensors", private=True) as temporary:
            save_file({name: t.contiguous() for name, t in drawn.tensors().items()}, temporary, metadata=metadata)
            order_metadata(temporary)


def _held(lock: Path) -> int | None:
    """The descriptor of a lock file, when it is its turn; None where the file is gone by then."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, PRIVATE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        there = os.fstat(descriptor).st_nlink > 0
    except BaseException:
        os.close(descriptor)
        raise
    if there:
        return descriptor
    os.close(descriptor)
    return None


def _indices(parts: Sequence[Drawn]) -> set[int]:
    return {index for part in parts for index in part.indices.tolist()}


def _gathered(parts: Sequence[Drawn], indices: Sequence[int]) -> Drawn:
    """The images of the indices, each of which some part has."""
    whole = Drawn.join(parts)
    place = {index: row for row, index in enumerate(whole.indices.tolist())}
    return whole.rows([place[i] for i in indices])


def _digest(drawn: Drawn) -> str:
    digest = sha256()
    for name, tensor in drawn.tensors().items():
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()

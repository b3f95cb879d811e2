"""Weights out of memory and back: into a private file, bit for bit, one tensor at a time."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor, nn

from fedwarm.core.files import PRIVATE, writing

DROP_PAGES, MMAP_THRESHOLD = 4, -3
APART_BYTES, USUAL_BYTES = 1 << 20, 1 << 25
HOST = torch.device("cpu")
Span = tuple[int, int]


def open_private(path: Path) -> BinaryIO:
    """A new file to write and read, unbuffered, its owner's alone.

    Raises:
        FileExistsError: it is there already.
    """
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, PRIVATE), "w+b", buffering=0)


def raw(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, not copied."""
    return tensor.detach().reshape(-1).view(torch.uint8).numpy().data


def read_into(file: BinaryIO, tensor: Tensor) -> None:
    """Fill a contiguous CPU tensor from the file's place.

    Raises:
        EOFError: the file ends before.
    """
    left = raw(tensor)
    while len(left):
        got = file.readinto(left)  # type: ignore[attr-defined]
        if not got:
            raise EOFError(f"{file.name} ends {len(left)} bytes too early")
        left = left[got:]


def write_all(file: BinaryIO, tensor: Tensor) -> None:
    """Append a tensor's bytes at the file's place."""
    left = raw(tensor.cpu().contiguous())
    while len(left):
        left = left[file.write(left) :]


@contextmanager
def away(modules: Iterable[nn.Module], path: Path) -> Iterator[int]:
    """The modules' numbers are in a private file for the block, in no device's memory, and back afterwards.

    The parameters stay the same objects, empty; a forward pass through them fails. What was a mapped file comes back as memory.

    Args:
        path: a new file; gone after the block.

    Yields:
        Bytes that were freed.
    """
    tensors = list({id(t): t for m in modules for t in (*m.parameters(), *m.buffers())}.values())
    shapes = [t.shape for t in tensors]
    with open_private(path) as file:
        try:
            with writing(path):
                for tensor in tensors:
                    write_all(file, tensor)
            try:
                yield _freed(tensors)
            finally:
                give_back()
                file.seek(0)
                for tensor, shape in zip(tensors, shapes, strict=True):
                    fresh = torch.empty(shape, dtype=tensor.dtype)
                    read_into(file, fresh)
                    tensor.data = fresh.to(tensor.device)
        finally:
            path.unlink()


def resting(modules: Iterable[nn.Module], device: torch.device) -> AbstractContextManager[None]:
    """The modules are in the host's memory for the block, and on their device again afterwards; on a CPU they stay there."""
    return _moved(modules, HOST, device)


def working(modules: Iterable[nn.Module], device: torch.device) -> AbstractContextManager[None]:
    """The modules are on their device for the block, and in the host's memory afterwards; on a CPU they stay there."""
    return _moved(modules, device, HOST)


@contextmanager
def _moved(modules: Iterable[nn.Module], inside: torch.device, after: torch.device) -> Iterator[None]:
    if inside.type == after.type:
        yield
        return
    moved = list(modules)
    _bring(moved, inside)
    try:
        yield
    finally:
        _bring(moved, after)


def _bring(modules: Iterable[nn.Module], device: torch.device) -> None:
    """Move modules; the device that they leave for the host has their memory back."""
    for module in modules:
        module.to(device)
    if device.type == HOST.type:
        give_back()


def _freed(tensors: list[Tensor]) -> int:
    """Empty the tensors and see that their memory is the system's again: bytes."""
    size, spans = sum(t.numel() * t.itemsize for t in tensors), _mapped_files()
    for tensor in tensors:
        start = tensor.data_ptr()
        if tensor.device.type == "cpu" and any(a <= start < b for a, b in spans):
            _drop_pages(start, tensor.numel() * tensor.itemsize)
        tensor.data = tensor.data.new_empty(0)
    give_back()
    return size


def give_back() -> None:
    """Hand freed memory to the system: what CUDA's allocator keeps and, where the C library is glibc, what its heap keeps."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


@contextmanager
def apart() -> Iterator[None]:
    """Tensors of a MiB and more that the block makes have pages of their own, which the system has back when they are freed.

    Else glibc keeps them in its heap, where tensors of many sizes leave holes: tuning Stable Diffusion at 512 pixels took 1.6 GB
    more than its tensors. After the block sizes up to 32 MiB are the heap's, as glibc itself comes to have it.
    """
    option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if option is None:
        yield
        return
    option(MMAP_THRESHOLD, APART_BYTES)
    try:
        yield
    finally:
        option(MMAP_THRESHOLD, USUAL_BYTES)


def _mapped_files() -> list[Span]:
    """Addresses where private mappings of files lie: weights of a safetensors file that was read without a cast are such."""
    if sys.platform != "linux":
        return []
    lines = (line.split() for line in Path("/proc/self/maps").read_text().splitlines())
    spans = (line[0].split("-") for line in lines if line[4] != "0" and line[1].endswith("p"))
    return [(int(start, 16), int(end, 16)) for start, end in spans]


def _drop_pages(start: int, size: int) -> None:
    """Forget the whole pages in a span of a mapped file; who reads there again gets the file's content."""
    first, last = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, (start + size) // mmap.PAGESIZE * mmap.PAGESIZE
    if last > first:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), DROP_PAGES)

"""Shared randomness: standard normals that every party draws alike, keyed by (run, round, client, block, candidate).

Contract, version 1. A block's key is the first 16 bytes, as two little-endian words, of
SHA-256("fedwarm/dp-rec/1", a zero byte, run, round, client, block as little-endian uint64, secret, nonce). Philox4x64-10 (Salmon,
Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011) runs under it with a counter of four words: word 3
is the candidate, word 0 the number of the group of four outputs, starting at 1. Each output word is four uint16, least
significant first, and each of them looks up one normal in `table()`. Integers and one table are the same bits everywhere.
A round's rotation has the key of the label "fedwarm/dp-rec/1/rotation", run, round and the round's secret, and one sign from each
bit.

Where streams are secret, what is decoded must tell nothing of them, for which Philox was not made: there AES-128 in counter mode
(NIST SP 800-38A, 6.5) stands in its place, under the same key, with the candidate in the upper and the number of the group in
the lower half of the counter, both big-endian, from group 0. A client is told its own secret of the round and the rotation's,
both made of a master that stays at the server. No guarantee rests on the rotation, which all clients of a round know: it is
always Philox's. Where streams are public, the client draws a nonce for each message, which travels with it: so nobody chooses
candidates beforehand, and no two messages share any, whatever their seeds.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

LABEL = b"fedwarm/dp-rec/1"
BINS = 1 << 16
UNIT = 2.0**-20
TABLE_SHA256 = "e2fdf2ad09eccf9e0f2de2d4f536698caa7b9e0e914f164e18b4f4e7db5a7d56"
PER_WORD, PER_GROUP = 4, 8
SECRET_BYTES = NONCE_BYTES = 16

Key = tuple[int, int]


@dataclass(frozen=True)
class Stream:
    """Whose randomness it is: one client's update in one round of one run; each number in [0, 2^64).

    Attributes:
        run, round, client: as said.
        secret: of this stream; empty: anyone can redraw it, else only those who hold the secret.
        common: the secret of the round's rotation, which all its clients hold.
        nonce: drawn by the client for this message.
    """

    run: int
    round: int
    client: int
    secret: bytes = b""
    common: bytes = b""
    nonce: bytes = b""

    @staticmethod
    def under(master: bytes, run: int, number: int, client: int) -> Stream:
        """The stream of a client in a round; of no master, a public one."""
        return Stream(run, number, client, client_secret(master, number, client), common_secret(master, number))

    def key(self, block: int) -> Key:
        """The Philox key of a block.

        Raises:
            ValueError: a number is negative or has more than 64 bits.
        """
        return _key(LABEL, (self.run, self.round, self.client, block), self.secret + self.nonce)

    def words(self) -> Words:
        """The generator of its candidates."""
        return SecretWords() if self.secret else Words()

    def rotation(self) -> Key:
        """The key of the round's rotation, which all clients of the round share."""
        return _key(LABEL + b"/rotation", (self.run, self.round), self.common)


def client_secret(master: bytes, number: int, client: int) -> bytes:
    """A client's secret of a round, 16 bytes, out of the server's master; nothing of others follows from it."""
    return _secret(b"stream", master, number, client)


def common_secret(master: bytes, number: int) -> bytes:
    """The secret of a round's rotation."""
    return _secret(b"rotation", master, number)


def _secret(label: bytes, master: bytes, *numbers: int) -> bytes:
    if not master:
        return b""
    told = b"%s/%s\0%s" % (LABEL, label, struct.pack(f"<{len(numbers)}Q", *numbers))
    return hashlib.shake_256(told + master).digest(SECRET_BYTES)


def _key(label: bytes, numbers: tuple[int, ...], secret: bytes) -> Key:
    if not all(0 <= n < 1 << 64 for n in numbers):
        raise ValueError(f"stream {numbers}: each number must be in [0, 2^64)")
    digest = hashlib.sha256(label + b"\0" + struct.pack(f"<{len(numbers)}Q", *numbers) + secret).digest()
    first, second = struct.unpack("<2Q", digest[:16])
    return first, second


class Words:
    """Philox4x64-10, put back by `at`; not to be shared by threads."""

    def __init__(self) -> None:
        self._philox = np.random.Philox(key=[0, 0], counter=[0, 0, 0, 0])
        self._state: Any = self._philox.state

    def at(self, key: Key, candidate: int) -> Words:
        """Stand before the first word of a candidate; the same object."""
        inner = self._state["state"]
        inner["key"][:] = key
        inner["counter"][3] = candidate
        self._philox.state = self._state
        return self

    def take(self, count: int) -> NDArray[np.uint64]:
        """The next words."""
        return self._philox.random_raw(count)

    def codes(self, count: int) -> NDArray[np.uint16]:
        """The next uint16; `count` is rounded up to whole words of four."""
        return self.take(-(-count // PER_WORD)).astype("<u8", copy=False).view("<u2")

    def rows(self, key: Key, first: int, count: int, width: int) -> NDArray[np.uint16]:
        """The first `width` uint16, a multiple of four, of each candidate from `first` on (count, width)."""
        out = np.empty((count, width), np.uint16)
        for i in range(count):
            out[i] = self.at(key, first + i).codes(width)
        return out


class SecretWords(Words):
    """AES-128 in counter mode, put back by `at`; not to be shared by threads."""

    def __init__(self) -> None:
        self._stream: Any = None

    def at(self, key: Key, candidate: int) -> SecretWords:
        self._stream = _aes(key, struct.pack(">2Q", candidate, 0))
        return self

    def take(self, count: int) -> NDArray[np.uint64]:
        return np.frombuffer(self._stream.update(bytes(8 * count)), "<u8")

    def rows(self, key: Key, first: int, count: int, width: int) -> NDArray[np.uint16]:
        counters = np.empty((count, -(-width // PER_GROUP), 2), ">u8")
        counters[..., 0] = np.arange(first, first + count)[:, None]
        counters[..., 1] = np.arange(counters.shape[1])
        cipher = _aes(key)
        return np.frombuffer(cipher.update(counters.tobytes()), "<u2").reshape(count, -1)[:, :width]


def _aes(key: Key, counter: bytes | None = None) -> Any:
    """AES-128 under a block's key: in counter mode from `counter` on, else block by block, for counters that each come once."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    mode = modes.ECB() if counter is None else modes.CTR(counter)
    return Cipher(algorithms.AES(struct.pack("<2Q", *key)), mode).encryptor()


@cache
def table() -> NDArray[np.float32]:
    """The 65,536 normals: entry i is E[z | z in the i-th equiprobable bin of N(0, 1)], rounded to multiples of 2^-20.

    Raises:
        RuntimeError: this machine computes another table; it could not talk to others.
    """
    from scipy.special import ndtri

    half = BINS // 2
    edges = ndtri(np.arange(half + 1) / BINS)
    density = np.exp(-(edges**2) / 2) / np.sqrt(2 * np.pi)
    means = -np.diff(density) * BINS  # E[z | a < z < b] = (phi(a) - phi(b)) / (Phi(b) - Phi(a))
    tail = 64
    nodes, weights = np.polynomial.legendre.leggauss(8)  # inside, the mean of the quantile function: nothing cancels
    quantiles = ndtri((np.arange(tail, half)[:, None] + (nodes + 1) / 2) / BINS)
    means[tail:] = quantiles @ (weights / 2)
    rounded = np.round(means / UNIT) * UNIT
    whole = np.concatenate([rounded, -rounded[::-1]]).astype("<f4")
    if hashlib.sha256(whole.tobytes()).hexdigest() != TABLE_SHA256:
        raise RuntimeError(
            "the table of normal numbers differs on this machine, so client and server would draw different numbers; "
            "use the same numpy build as the server"
        )
    whole.setflags(write=False)
    return whole


@cache
def wide_table() -> NDArray[np.float64]:
    """The same numbers in float64."""
    wide = table().astype(np.float64)
    wide.setflags(write=False)
    return wide


def normals(key: Key, candidate: int, count: int, words: Words | None = None) -> NDArray[np.float32]:
    """The first `count` normals (count,) of a candidate."""
    codes = (words or Words()).at(key, candidate).codes(count)[:count]
    return np.take(table(), codes, mode="clip")


def signs(key: Key, count: int) -> NDArray[np.float64]:
    """Fair signs (count,), -1 where the stream's bit is set; word 0's least significant bit is the first."""
    raw = Words().at(key, 0).take(-(-count // 64)).astype("<u8", copy=False).view(np.uint8)
    return np.asarray(1.0 - 2.0 * np.unpackbits(raw, bitorder="little")[:count], np.float64)

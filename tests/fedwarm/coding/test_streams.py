"""The stream contract: test vectors, three implementations of Philox, and the same bits in other processes."""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from scipy import integrate, stats

from fedwarm.coding import device, rec
from fedwarm.coding.streams import UNIT, Key, Stream, Words, normals, signs, table, wide_table

STREAM = Stream(1, 2, 3)
MASK = (1 << 64) - 1


def philox_by_hand(key: Key, counter: list[int]) -> list[int]:
    """Philox4x64-10 of one counter in Python's whole numbers."""
    c, k = list(counter), list(key)
    for turn in range(10):
        if turn:
            k = [(k[0] + 0x9E3779B97F4A7C15) & MASK, (k[1] + 0xBB67AE8584CAA73B) & MASK]
        first, second = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
        c = [(second >> 64) ^ c[1] ^ k[0], second & MASK, (first >> 64) ^ c[3] ^ k[1], first & MASK]
    return c


def test_vectors_of_the_contract() -> None:
    key = STREAM.key(4)
    assert key == (0x97413303F59716F2, 0x3AA6F4D47BD7CB4E)
    words = Words().at(key, 5).take(2)
    assert [int(w) for w in words] == [0xEFB749D4600E85D5, 0xE3F6B05F6E897C5F]
    assert Words().at(key, 5).codes(4).tolist() == [34261, 24590, 18900, 61367]
    assert normals(key, 5, 4).tolist() == [table()[i] for i in (34261, 24590, 18900, 61367)]


def test_philox_by_hand_gives_the_same_words() -> None:
    for key, candidate in ((STREAM.key(4), 5), ((0, 0), 0), ((MASK, MASK), 65535)):
        wanted = [w for group in (1, 2, 3) for w in philox_by_hand(key, [group, 0, 0, candidate])]
        assert [int(w) for w in Words().at(key, candidate).take(12)] == wanted
        ours = device.philox(device.signed([key]), torch.tensor([candidate]), 1, 3)[0].tolist()
        assert [w & MASK for w in ours] == wanted


def test_words_start_anew_wherever_they_stood() -> None:
    words = Words()
    fresh = Words().at(STREAM.key(1), 7).take(5)
    words.at(STREAM.key(0), 3).take(2)
    assert np.array_equal(words.at(STREAM.key(1), 7).take(5), fresh)
    words.at(STREAM.key(1), 7).take(1000)
    assert np.array_equal(words.at(STREAM.key(1), 7).take(5), fresh)


def test_a_longer_draw_begins_with_the_shorter_one() -> None:
    long = normals(STREAM.key(0), 2, 1000)
    for count in (1, 3, 4, 15, 17, 999):
        assert np.array_equal(normals(STREAM.key(0), 2, count), long[:count])


def test_the_table_is_the_contracts() -> None:
    entries = table()
    assert hashlib.sha256(entries.astype("<f4").tobytes()).hexdigest().startswith("e2fdf2ad09eccf9e")
    assert entries.dtype == np.float32 and entries.shape == (65536,)
    assert np.array_equal(entries, -entries[::-1]) and (np.diff(entries) > 0).all()
    assert np.array_equal(wide_table() / UNIT, np.round(wide_table() / UNIT)), "multiples of 2^-20"
    assert entries.max() == pytest.approx(4.3875, abs=5e-5)
    assert wide_table().var() == pytest.approx(0.9999985, abs=5e-8)


@pytest.mark.parametrize("i", [0, 1, 63, 64, 929, 20000, 32767])
def test_an_entry_is_its_bins_mean(i: int) -> None:
    low, high = stats.norm.ppf([i / 65536, (i + 1) / 65536])
    mean = integrate.quad(lambda z: z * stats.norm.pdf(z), max(low, -40.0), high, epsabs=1e-16)[0] * 65536
    assert float(table()[i]) == pytest.approx(mean, abs=UNIT / 2 + 1e-9)


def test_no_moment_passes_the_gaussians() -> None:
    """Bin means have a moment generating function of at most e^{c^2 / 2}: what the account rests on (the rest is rounding)."""
    for c in np.arange(0.0, 4.01, 0.25):
        assert np.exp(c * wide_table()).mean() <= np.exp(c * c / 2) * (1 + c * UNIT)


def test_normals_are_normal() -> None:
    drawn = normals(STREAM.key(9), 0, 200_000)
    assert stats.kstest(drawn, "norm").pvalue > 1e-3
    lagged = np.corrcoef(drawn[:-1], drawn[1:])[0, 1]
    assert abs(lagged) < 4 / np.sqrt(drawn.size)


def test_every_part_of_a_key_counts() -> None:
    streams = [Stream(1, 2, 3), Stream(2, 1, 3), Stream(1, 3, 2), Stream(1, 2, 4), Stream(1, 2, 3, b"x"), Stream(1, 2, 3, b"y")]
    streams += [Stream(1, 2, 3, nonce=b"x" * 16), Stream(1, 2, 3, b"x", nonce=b"z")]
    rounds = [Stream(1, 2, 3), Stream(2, 1, 3), Stream(1, 3, 2), Stream(1, 2, 3, common=b"x"), Stream(1, 2, 3, common=b"y")]
    keys = [s.key(b) for s in streams for b in (0, 1)] + [s.rotation() for s in rounds]
    assert len(set(keys)) == len(keys)
    assert Stream(1, 2, 3).rotation() == Stream(1, 2, 9).rotation(), "all clients of a round share its rotation"
    assert Stream(1, 2, 3, b"x", nonce=b"z").rotation() == Stream(1, 2, 3).rotation()


@pytest.mark.parametrize("bad", [-1, 1 << 64])
def test_numbers_out_of_range_are_refused(bad: int) -> None:
    for stream, block in ((Stream(bad, 0, 0), 0), (Stream(0, bad, 0), 0), (Stream(0, 0, bad), 0), (Stream(0, 0, 0), bad)):
        with pytest.raises(ValueError, match=r"each number must be in \[0, 2\^64\)"):
            stream.key(block)


def test_signs_are_fair_and_repeat() -> None:
    drawn = signs(STREAM.rotation(), 100_001)
    assert set(np.unique(drawn)) == {-1.0, 1.0} and drawn.shape == (100_001,)
    assert abs(drawn.mean()) < 4 / np.sqrt(drawn.size)
    assert np.array_equal(drawn[:77], signs(STREAM.rotation(), 77))


PROGRAM = """
import hashlib
from fedwarm.coding.streams import Stream, normals, signs
s = Stream(2**64 - 1, 7, 11, b"secret", b"secret")
h = hashlib.sha256()
for block in range(3):
    for candidate in (0, 1, 127, 65535):
        h.update(normals(s.key(block), candidate, 4097).astype("<f4").tobytes())
h.update(signs(s.rotation(), 100).astype("<f8").tobytes())
print(h.hexdigest())
"""


def test_other_processes_and_thread_counts_draw_the_same_bits() -> None:
    found = set()
    for threads, seed in (("1", "1"), ("2", "2")):
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
        found.add(done.stdout.strip())
    assert found == {"973c71986c2bd6f9097eece135e4abfdaac51d91c76b73a998ec5ff4fdc7b231"}, "and they stay what they were"


def test_secret_streams_are_aes_in_counter_mode() -> None:
    """Group g of candidate k is AES-128 of (k, g), two big-endian words, under the block's key; by the block cipher alone."""
    key, groups = Stream(1, 2, 3, b"secret").key(4), 5
    cipher = Cipher(algorithms.AES(struct.pack("<2Q", *key)), modes.ECB()).encryptor()
    for candidate in (0, 3, 2**40):
        wanted = b"".join(cipher.update(struct.pack(">2Q", candidate, group)) for group in range(groups))
        words = Stream(1, 2, 3, b"secret").words().at(key, candidate)
        assert Stream(1, 2, 3, b"secret").words().rows(key, candidate, 2, 36)[0].tobytes() == wanted[:72]
        assert np.concatenate([words.codes(12), words.codes(28)]).astype("<u2").tobytes() == wanted
    assert type(Stream(1, 2, 3).words()) is Words


def test_a_nonce_or_a_secret_that_is_another_gives_other_candidates_on_both_sides() -> None:
    """What the coder writes, the decoder reads, of the same generator; a public stream of the same key would read another."""
    v, starts = 0.3 * np.ones(40), np.array([0, 20, 40])
    secret = Stream(1, 2, 3, b"secret")
    indices = rec.encode(v, starts, 5, secret, np.random.default_rng(0).bytes)
    decoded = rec.decode(indices, starts, secret)
    for j, index in enumerate(indices.tolist()):
        assert np.array_equal(decoded[20 * j : 20 * (j + 1)], normals(secret.key(j), index, 20, secret.words()))
        assert not np.array_equal(decoded[20 * j : 20 * (j + 1)], normals(secret.key(j), index, 20))
    assert abs(float(normals(secret.key(0), 7, 100_000, secret.words()).std()) - 1) < 0.01

"""The exact codec: constant lengths, the law of what is decoded, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from fedwarm.coding.blocks import even
from fedwarm.coding.packing import CodeError
from fedwarm.coding.poisson import PoissonCodec
from fedwarm.coding.streams import Stream, normals
from fedwarm.privacy.clipping import clip

SIZE, SIGMA = 500, 0.25
CODEC = PoissonCodec(SIZE, SIGMA, 1.0, even(512, 44), tolerance=1e-9)
UPDATE = np.random.default_rng(1).normal(size=SIZE)


def stream(client: int) -> Stream:
    return Stream(7, 1, client, b"%16d" % client, b"secret of a round")


def test_every_message_has_one_length() -> None:
    updates = (np.zeros(SIZE), 1e-3 * UPDATE, UPDATE)
    lengths = {len(CODEC.encode(u, stream(i), np.random.default_rng(i).bytes)) for i, u in enumerate(updates)}
    assert lengths == {len(CODEC.absent())} == {CODEC.words_bytes}
    assert CODEC.encode(np.zeros(SIZE), stream(1), np.random.default_rng(1).bytes) == CODEC.absent(), (
        "nobody's is a zero update's"
    )


def test_what_is_decoded_is_the_clipped_update_plus_noise() -> None:
    """No shrinkage to divide by, and noise of sigma in every direction, over 60 messages."""
    decoded = np.stack([
        CODEC.decode(CODEC.encode(UPDATE, stream(i), np.random.default_rng(i).bytes), stream(i)) for i in range(60)
    ])  # fmt: skip
    wanted = clip(UPDATE, 1.0)
    along = decoded @ wanted
    assert along.mean() == pytest.approx(1.0, abs=4 * SIGMA / np.sqrt(60))
    assert (decoded - wanted).std() == pytest.approx(SIGMA, rel=4 / np.sqrt(2 * 60 * SIZE))


def test_nobodys_message_is_noise() -> None:
    drawn = CODEC.candidate(CODEC.absent(), stream(3))
    starts = CODEC.blocks.starts
    assert np.array_equal(drawn[: starts[1]], normals(stream(3).key(0), 0, int(starts[1]), stream(3).words()))
    assert drawn.std() == pytest.approx(1.0, abs=4 / np.sqrt(2 * 512))


def test_a_message_that_is_too_long_is_sent_as_nobodys() -> None:
    """With half of a large tolerance for lengths, at most so many of the longest updates are."""
    loose = PoissonCodec(SIZE, SIGMA, 1.0, even(512, 44), magnitude="scale", tolerance=0.3)
    sent = [loose.encode(UPDATE, stream(i), np.random.default_rng(i).bytes) for i in range(120)]
    assert {len(words) for words in sent} == {loose.words_bytes} and loose.words_bytes < CODEC.words_bytes
    share = sum(words == loose.absent() for words in sent) / len(sent)
    assert 0 < share < 0.15 + 4 * np.sqrt(0.15 * 0.85 / 120)


def test_who_lacks_the_secret_decodes_noise() -> None:
    words = CODEC.encode(UPDATE, stream(1), np.random.default_rng(1).bytes)
    other = CODEC.decode(words, Stream(7, 1, 1, b"another", b"secret of a round"))
    assert abs(other @ clip(UPDATE, 1.0)) < 5 * SIGMA


@pytest.mark.parametrize("words", [b"", b"\xff" * 3, b"\x00" * CODEC.words_bytes, b"\xff" * CODEC.words_bytes])
def test_bytes_that_no_coder_wrote_are_refused(words: bytes) -> None:
    with pytest.raises(CodeError):
        CODEC.candidate(words, stream(1))


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(CodeError, match="tolerance = 0"):
        PoissonCodec(SIZE, SIGMA, 1.0, even(512, 44), tolerance=0.0)
    with pytest.raises(CodeError, match="take smaller blocks"):
        PoissonCodec(SIZE, SIGMA, 1.0, even(512, 1))

"""Rounded updates for a server that adds the noise: unbiased before the last clip, and never longer than the clip after it."""

from __future__ import annotations

import numpy as np
import pytest

from fedwarm.coding.blocks import even
from fedwarm.coding.packing import CodeError
from fedwarm.coding.rounded import RoundedCodec
from fedwarm.coding.streams import Stream
from fedwarm.privacy.clipping import clip

SIZE, SIGMA, CLIP = 500, 0.25, 2.0
STREAM = Stream(7, 1, 2, b"secret of stream", b"secret of a round")


def codec(bits: int) -> RoundedCodec:
    return RoundedCodec(SIZE, SIGMA, CLIP, even(512, 1), bits=bits)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_message_is_no_longer_than_the_clip_and_b_bits_a_number(bits: int) -> None:
    """Of flat and of spiky updates, at which rounding lengthens vectors most."""
    ours = codec(bits)
    spiky = np.zeros(SIZE)
    spiky[3] = 50.0
    for i, update in enumerate((np.random.default_rng(1).normal(size=SIZE), spiky, np.zeros(SIZE))):
        words = ours.encode(update, STREAM, np.random.default_rng(i).bytes)
        assert len(words) == ours.words_bytes == -(-512 * bits // 8) + 4
        assert np.linalg.norm(ours.decode(words, STREAM)) <= CLIP * (1 + 1e-6)


def test_short_updates_are_decoded_without_bias() -> None:
    update = 0.5 * clip(np.random.default_rng(1).normal(size=SIZE), 1.0)
    ours = codec(3)
    decoded = np.stack([
        ours.decode(ours.encode(update, STREAM, np.random.default_rng(i).bytes), STREAM) for i in range(200)
    ])  # fmt: skip
    along = decoded @ update / (update @ update)
    assert along.mean() == pytest.approx(1.0, abs=4 * along.std() / np.sqrt(200)) and 0 < along.std() < 0.2


def test_nobodys_message_is_nothing() -> None:
    assert not codec(4).decode(codec(4).absent(), STREAM).any()


def test_what_no_coder_writes_is_refused() -> None:
    with pytest.raises(CodeError):
        codec(4).candidate(b"\x00" * 3, STREAM)
    with pytest.raises(CodeError, match="2 to 16"):
        codec(1)

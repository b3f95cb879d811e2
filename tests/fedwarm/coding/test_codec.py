"""The codec: exact where it must be, unbiased where it promises, and never silent about what it cannot code."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import numpy as np
import pytest

from fedwarm.coding import rec
from fedwarm.coding.blocks import Blocks, even, fixed_size, kl_adaptive, per_tensor
from fedwarm.coding.codec import RandomCodec
from fedwarm.coding.packing import CodeError, unpack
from fedwarm.coding.rotation import padded, restore
from fedwarm.coding.shrinkage import parallel_variance, shrinkage
from fedwarm.coding.streams import Stream, normals
from fedwarm.privacy.clipping import UpdateError

STREAM = Stream(9, 2, 6, b"run secret")
DRAWS = np.random.default_rng(0)


def codec(
    size: int = 60, blocks: int = 4, *, bits: int = 7, sigma: float = 0.5, rotation: str = "hadamard", **more: object
) -> RandomCodec:
    cut = even(padded(size, rotation), blocks)
    return RandomCodec(size, sigma, 1.0, cut, rotation, bits=bits, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(("blocks", "bits", "length"), [(100, 7, 88), (4, 7, 4), (64, 1, 8), (3, 16, 6)])
def test_a_message_is_exactly_its_bits(blocks: int, bits: int, length: int) -> None:
    ours = codec(128, blocks, bits=min(bits, 7)) if bits < 16 else codec(8, blocks, bits=bits)
    words = ours.encode(DRAWS.normal(size=ours.size), STREAM)
    assert len(words) == ours.words_bytes == length and ours.words_bits == blocks * bits
    assert len(ours.absent()) == length


@pytest.mark.parametrize("rotation", ["none", "hadamard", "qr"])
@pytest.mark.parametrize("debias", [True, False])
def test_decoded_is_what_the_indices_say(rotation: str, debias: bool) -> None:
    """By hand: candidate of each index, times sigma, over s(K, sqrt(X / B)), rotated back."""
    ours = codec(rotation=rotation, debias=debias)
    words = ours.encode(DRAWS.normal(size=60), STREAM)
    indices = unpack(words, 4, 7)
    starts = ours.blocks.starts
    drawn = [normals(STREAM.key(j), int(i), int(starts[j + 1] - starts[j]), STREAM.words()) for j, i in enumerate(indices)]
    scale = 0.5 / (shrinkage(7, np.sqrt(4.0 / 4)) if debias else 1.0)
    wanted = restore(np.concatenate(drawn).astype(np.float64) * scale, rotation, STREAM.rotation(), 60)
    np.testing.assert_allclose(ours.decode(words, STREAM), wanted, rtol=1e-8, atol=1e-12)


@pytest.mark.long
def test_both_halves_agree_wherever_they_are() -> None:
    program = (
        "import sys, numpy as np\n"
        "from fedwarm.coding.blocks import even\n"
        "from fedwarm.coding.codec import RandomCodec\n"
        "from fedwarm.coding.streams import Stream\n"
        "ours = RandomCodec(60, 0.5, 1.0, even(64, 4), bits=7)\n"
        "sys.stdout.write(ours.decode(bytes.fromhex(sys.argv[1]), Stream(9, 2, 6, b'run secret')).tobytes().hex())\n"
    )
    ours = codec()
    words = ours.encode(DRAWS.normal(size=60), STREAM)
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", program, words.hex()], env=environment, capture_output=True, text=True, check=True
    )
    assert bytes.fromhex(done.stdout) == ours.decode(words, STREAM).tobytes()


def test_who_lacks_the_secret_decodes_noise() -> None:
    ours = codec(4000, 8, sigma=0.1)
    words = ours.encode(DRAWS.normal(size=4000), STREAM)
    right, wrong = ours.decode(words, STREAM), ours.decode(words, Stream(9, 2, 6))
    assert abs(np.corrcoef(right, wrong)[0, 1]) < 5 / np.sqrt(4000)


@pytest.mark.parametrize("magnitude", ["clip", "scale"])
def test_nothing_passes_the_caps(magnitude: str) -> None:
    """Squares sum to X at most, every block to its cap, for wild updates too: the sensitivity that the account relies on."""
    for kind in ("none", "hadamard"):
        ours = codec(rotation=kind, magnitude=magnitude, sigma=0.2)
        for update in (DRAWS.normal(size=60) * 1e6, np.eye(60)[5] * 0.9, np.eye(60)[5] * 1e150, np.full(60, 1e-3)):
            squares = ours.blocks.squares(ours.prepare(update, STREAM))
            assert (squares <= ours.caps * (1 + 1e-12)).all()
            assert squares.sum() <= ours.energy * (1 + 1e-12)
    assert codec(sigma=0.2).energy == pytest.approx(25.0)


def test_scaled_blocks_have_their_shares_norm() -> None:
    ours = codec(magnitude="scale", sigma=0.2)
    assert ours.blocks.squares(ours.prepare(np.full(60, 1e-9), STREAM)) == pytest.approx(25 / 4)
    assert not ours.prepare(np.zeros(60), STREAM).any(), "what has no direction stays zero"


def test_short_updates_are_not_touched() -> None:
    update = DRAWS.normal(size=60) / 100
    ours = codec(rotation="none")
    np.testing.assert_allclose(ours.prepare(update, STREAM) * 0.5, update, rtol=1e-15)


@pytest.mark.parametrize(
    ("blocks", "bits", "sigma", "rotation"), [(4, 4, 0.5, "hadamard"), (4, 6, 0.6, "none"), (1, 3, 1.0, "qr")]
)
def test_decoded_updates_are_unbiased(blocks: int, bits: int, sigma: float, rotation: str) -> None:
    """2,000 decoded updates of norm C, all blocks of equal norm: every number's mean within 4.5 standard errors, and the mean
    variance within 5 % of (sigma / s)^2 (m - 1 + parallel) / m."""
    ours = codec(16, blocks, bits=bits, sigma=sigma, rotation=rotation)
    update = np.eye(16)[3] if rotation == "hadamard" else DRAWS.choice([-1.0, 1.0], 16) / 4.0
    source = np.random.default_rng(1).bytes
    decoded = np.array([ours.decode(ours.encode(update, s, source), s) for s in (Stream(1, t, 0) for t in range(2000))])
    errors = (decoded.mean(0) - update) / (decoded.std(0) / np.sqrt(2000))
    assert np.abs(errors).max() < 4.5
    c, m = np.sqrt(ours.energy / blocks), 16 / blocks
    wanted = (sigma / shrinkage(bits, c)) ** 2 * (m - 1 + parallel_variance(bits, c)) / m
    assert decoded.var(0).mean() == pytest.approx(wanted, rel=0.05)


@pytest.mark.long
def test_without_debiasing_the_mean_is_short_by_the_shrinkage() -> None:
    ours = codec(16, 4, bits=3, sigma=0.5, rotation="none", debias=False)
    update, source = np.full(16, 0.25), np.random.default_rng(2).bytes
    along = np.array([ours.decode(ours.encode(update, s, source), s) @ update for s in (Stream(1, t, 0) for t in range(4000))])
    assert abs(along.mean() - shrinkage(3, 1.0)) < 4 * along.std() / np.sqrt(4000)


@pytest.mark.parametrize(
    "cut",
    [fixed_size(100, 30), per_tensor([60, 40]), kl_adaptive(np.random.default_rng(0).standard_cauchy(100), 40)],
    ids=["last one short", "per tensor", "adaptive, many norms"],
)
def test_blocks_of_unequal_size_are_debiased_each_by_its_own(cut: Blocks) -> None:
    ours = RandomCodec(100, 0.3, 1.0, cut, "none", bits=4)
    ratio = ours.decode(ours.absent(np.random.default_rng(0).bytes), STREAM)
    plain = RandomCodec(100, 0.3, 1.0, cut, "none", bits=4, debias=False)
    ratio = plain.decode(ours.absent(np.random.default_rng(0).bytes), STREAM) / ratio
    for j, share in enumerate(cut.shares):
        wanted = shrinkage(4, float(np.sqrt(ours.energy * share)))
        np.testing.assert_allclose(ratio[cut.starts[j] : cut.starts[j + 1]], wanted, rtol=2e-3)


def test_a_zero_update_says_no_more_than_nobody() -> None:
    ours = codec(512, 512, bits=4, rotation="none")
    source = np.random.default_rng(3).bytes
    for words in (ours.encode(np.zeros(512), STREAM, source), ours.absent(source)):
        counts = np.bincount(unpack(words, 512, 4), minlength=16)
        assert ((counts - 32) ** 2 / 32).sum() < 37.7, "chi-square, 15 degrees of freedom, p > .001"


def test_broken_updates_are_refused_by_name() -> None:
    ours, drawn = codec(), []

    def source(count: int) -> bytes:
        drawn.append(count)
        return os.urandom(count)

    for bad, message in ((np.nan, "1 of the update's 60 numbers"), (np.inf, "NaN or infinity"), (1e200, "norm overflows")):
        update = np.ones(60)
        update[7] = bad
        with warnings.catch_warnings(), pytest.raises(UpdateError, match=message):
            warnings.simplefilter("error")
            ours.encode(update, STREAM, source)
    with pytest.raises(CodeError, match=r"shape \[59\]; the codec was made for \[60\]"):
        ours.encode(np.ones(59), STREAM, source)
    assert not drawn, "nothing is drawn for an update that cannot be coded"
    tiny = np.full(60, 5e-324)
    assert len(ours.encode(tiny, STREAM)) == 4 and len(codec(magnitude="scale").encode(tiny, STREAM)) == 4


def test_float32_updates_are_clipped_in_float64() -> None:
    assert len(codec().encode(np.full(60, 3e38, np.float32), STREAM)) == 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomCodec(60, 0.0, 1.0, even(64, 4), bits=7), "sigma = 0.0"),
        (lambda: RandomCodec(60, 0.5, float("inf"), even(64, 4), bits=7), "clip = inf"),
        (lambda: RandomCodec(60, 0.5, 1.0, even(64, 4), bits=0), "1 to 16"),
        (lambda: RandomCodec(60, 0.5, 1.0, even(60, 4), bits=7), "60 become 64"),
        (lambda: RandomCodec(60, 0.5, 1.0, even(64, 4), bits=7, magnitude="bend"), "choose one of clip, scale"),
    ],
)
def test_codecs_that_make_no_sense_are_refused(make: object, message: str) -> None:
    with pytest.raises(CodeError, match=message):
        make()  # type: ignore[operator]


def test_foreign_code_words_are_refused() -> None:
    with pytest.raises(CodeError, match="3 bytes of code words"):
        codec().decode(b"abc", STREAM)


def test_sums_of_candidates_are_exact_in_any_order() -> None:
    ours = codec(500, 5)
    words = [(ours.absent(), Stream(0, 1, k)) for k in range(40)]
    drawn = [ours.candidate(w, s).astype(np.float64) for w, s in words]
    forward, back = sum(drawn), sum(drawn[::-1])
    assert np.array_equal(forward, back)
    assert rec.decode(unpack(words[0][0], 5, 7), ours.blocks.starts, words[0][1]).dtype == np.float32

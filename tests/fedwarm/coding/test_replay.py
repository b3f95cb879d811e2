"""Replay: a client that missed rounds comes to the server's bits, and the message is as long as the rule says."""

from __future__ import annotations

import numpy as np
import pytest

from fedwarm.coding.blocks import even
from fedwarm.coding.codec import RandomCodec
from fedwarm.coding.layout import Layout
from fedwarm.coding.packing import CodeError
from fedwarm.coding.replay import Round, Sum, digest, pack_rounds, replay_bytes, unpack_rounds
from fedwarm.coding.streams import Stream
from fedwarm.core.arrays import Arrays

RUN = 77
MODEL: Arrays = {"w": np.random.default_rng(0).normal(size=(20, 30)).astype(np.float32), "b": np.zeros(9, np.float32)}
LAYOUT = Layout.of(MODEL)
CODEC = RandomCodec(LAYOUT.total, 0.3, 1.0, even(1024, 11), bits=7)


def served(rounds: int) -> tuple[list[Arrays], list[Round]]:
    """The server's models after 0, 1, .. rounds, replies absorbed as they happened to arrive."""
    models, log = [MODEL], []
    for number in range(1, rounds + 1):
        cohort = np.random.default_rng(number).permutation(50)[:6].tolist()
        total, words = Sum(CODEC, RUN, number), {}
        for client in cohort:
            update = np.random.default_rng([number, client]).normal(size=LAYOUT.total)
            words[client] = CODEC.encode(update, Stream(RUN, number, client))
            total.add(client, words[client])
        models.append(LAYOUT.moved(models[-1], total.mean(7)))
        log.append(Round(number, 7, words))
    return models, log


def test_missed_rounds_end_in_the_same_bits() -> None:
    models, log = served(5)
    for missed in range(1, 6):
        mine = models[5 - missed]
        for each in unpack_rounds(pack_rounds(log[5 - missed :])):
            mine = LAYOUT.moved(mine, each.mean(CODEC, RUN))
        assert digest(mine) == digest(models[5])
        assert all(np.array_equal(mine[n], models[5][n]) for n in mine)
    assert len({digest(m) for m in models}) == 6


def test_a_sum_is_the_mean_of_the_decoded() -> None:
    _, log = served(1)
    decoded = [CODEC.decode(words, Stream(RUN, 1, client)) for client, words in log[0].words.items()]
    np.testing.assert_allclose(log[0].mean(CODEC, RUN), sum(decoded) / 7, atol=1e-12)


def test_bad_code_words_leave_the_sum_as_it_was() -> None:
    total = Sum(CODEC, RUN, 1)
    total.add(3, CODEC.absent())
    before = total.mean(2)
    with pytest.raises(CodeError):
        total.add(4, b"short")
    assert np.array_equal(total.mean(2), before) and total.added == 1


def test_a_message_is_as_long_as_the_rule_says() -> None:
    _, log = served(3)
    assert len(pack_rounds(log)) == replay_bytes([6, 6, 6], CODEC.words_bytes) == 3 * (20 + 6 * (8 + 10))
    assert pack_rounds([]) == b"" and unpack_rounds(b"") == []
    assert unpack_rounds(pack_rounds(log)) == [Round(r.number, r.count, dict(sorted(r.words.items()))) for r in log]
    empty = [Round(4, 7, {})]
    assert unpack_rounds(pack_rounds(empty)) == empty and not empty[0].mean(CODEC, RUN).any()


def test_cut_messages_are_refused() -> None:
    _, log = served(1)
    whole = pack_rounds(log)
    for end in (5, 19, 21, len(whole) - 1):
        with pytest.raises(CodeError, match="ends inside"):
            unpack_rounds(whole[:end])
    with pytest.raises(CodeError, match="equally long"):
        pack_rounds([Round(1, 2, {0: b"a", 1: b"ab"})])


def test_the_digest_sees_names_types_shapes_and_numbers() -> None:
    a = np.arange(6, dtype=np.float32)
    others = [{"x": a}, {"y": a}, {"x": a.reshape(2, 3)}, {"x": a.astype(np.float64)}, {"x": a + 1}, {"x": a, "y": a}]
    assert len({digest(o) for o in others}) == len(others)
    assert digest({"x": a, "y": a}) == digest({"y": a.copy(), "x": a})
    assert digest({"x": a.reshape(2, 3)}) == digest({"x": np.asfortranarray(a.reshape(2, 3))})

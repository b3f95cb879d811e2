"""Small arrays travel as one and come out byte for byte; what is no pack is left for the reader of messages to refuse."""

from __future__ import annotations

import math
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from fedwarm.core.payload import Payload, PayloadError
from fedwarm.flower.packing import NAME, RECORDS_TOO, SIGN, SMALL_BYTES, STYPE, WHOLE, Packs, pack, packing, signed, unpack
from fedwarm.flower.wire import from_records, size_of, to_records

ARRAYS = {
    "large": np.arange(SMALL_BYTES, dtype=np.float32),
    "weight": np.arange(6, dtype=np.float64).reshape(2, 3),
    "scale": np.array(2, np.int64),
    "nothing": np.zeros((0, 3), np.float32),
    "turned": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
}


def content(**arrays: np.ndarray) -> RecordDict:
    return to_records(Payload("weights", dict(arrays), {"loss": 0.5}, {"ticket": "0.0.0"}))


def told(records: RecordDict) -> list[tuple[object, ...]]:
    return [(name, a.dtype, a.shape, a.stype, a.data) for name, a in records.array_records["arrays"].items()]


def test_what_comes_out_is_what_went_in_and_in_its_order() -> None:
    before = content(**ARRAYS)
    before["arrays"]["code words"] = Array("uint8", (3,), "codec", b"abc")  # type: ignore[index]
    packed = pack(before)
    assert [*packed.array_records["arrays"]] == [NAME, "large"]
    after = unpack(packed)
    assert told(after) == told(before) and after["facts"] == before["facts"] and after["metrics"] == before["metrics"]


def test_a_hundred_small_arrays_weigh_their_numbers() -> None:
    before = content(**{f"block.{n}.lora.down.weight": np.zeros(600, np.float32) + n for n in range(100)})
    assert size_of(before).wire_bytes == 100 * (600 * 4 + 128)
    assert size_of(pack(before)).wire_bytes < 100 * 600 * 4 * 1.01


@pytest.mark.parametrize("names", [(), ("weight",), ("large",), ("large", "weight")])
def test_nothing_is_packed_that_joins_nothing(names: tuple[str, ...]) -> None:
    before = content(**{name: ARRAYS[name] for name in names})
    assert pack(before) is before and unpack(before) is before


def test_the_same_arrays_are_packed_once() -> None:
    encoded, packs = {}, Packs()
    one, two = (pack(to_records(Payload("weights", ARRAYS), encoded), packs) for _ in range(2))
    assert one["arrays"][NAME].data is two["arrays"][NAME].data and len(packs) == 1  # type: ignore[index]


@pytest.mark.parametrize(
    ("names", "objects"), [(("weight", "scale", "turned"), [11, 7, 3]), (("weight",), [7, 7, 3]), ((), [5, 5, 3])]
)
def test_a_small_message_is_three_objects_on_the_line(names: tuple[str, ...], objects: list[int]) -> None:
    """The message, its records and its facts; as Flower comes, an array is two more, and each record one."""
    payload = Payload(
        "weights", {name: ARRAYS[name] for name in names}, {"loss": 0.1, "most": 2**63, "none": math.nan}, {"c": [1, 2]}
    )
    before = to_records(payload)
    sent = [before, pack(before), pack(before, level=RECORDS_TOO)]
    assert [1 + len(get_all_nested_objects(each)) for each in sent] == objects
    after = unpack(sent[2])
    assert told(after) == told(before) and [*after] == [*before]
    assert str(after["metrics"]) == str(before["metrics"]) and after["facts"] == before["facts"]


def test_an_answer_is_packed_where_the_question_is_signed() -> None:
    def answers(message: Message, context: object) -> SimpleNamespace:
        assert SIGN not in message.content["facts"] and told(message.content) == told(content(**ARRAYS))
        return SimpleNamespace(content=content(**ARRAYS), has_content=lambda: True)

    for asked, names in ((signed(pack(content(**ARRAYS))), [NAME, "large"]), (content(**ARRAYS), [*ARRAYS])):
        reply = packing(SimpleNamespace(content=asked), None, answers)  # type: ignore[arg-type]
        assert [*reply.content.array_records["arrays"]] == names


def test_an_answer_is_one_record_where_the_question_says_so() -> None:
    asked = signed(pack(content(weight=ARRAYS["weight"]), level=RECORDS_TOO), RECORDS_TOO)
    reply = packing(SimpleNamespace(content=asked, has_content=lambda: True), None, lambda message, _: message)  # type: ignore[arg-type]
    assert [*reply.content] == ["facts"] and SIGN not in reply.content["facts"]
    assert told(unpack(reply.content)) == told(content(weight=ARRAYS["weight"]))


def spoilt(kind: str) -> bytes:
    good = pack(content(**ARRAYS)).array_records["arrays"][NAME].data
    size = int.from_bytes(good[:4], "big")
    table = zlib.decompress(good[4 : 4 + size])
    if kind == "cut short":
        return good[:-1]
    if kind == "more than told":
        return good + b"x"
    changed = {
        "no table": b"[[",
        "no list": b"7",
        "another name": table.replace(b'"large"', b'"larger"'),
        "twice": table.replace(b'"scale"', b'"weight"'),
        "negative": table.replace(b"48]", b"-48]"),
        "no number": table.replace(b"48]", b'"48"]'),
    }[kind]
    assert changed != table
    small = zlib.compress(changed)
    return len(small).to_bytes(4, "big") + small + good[4 + size :]


@pytest.mark.parametrize(
    "kind", ["cut short", "more than told", "no table", "no list", "another name", "twice", "negative", "no number"]
)
def test_what_is_no_pack_is_refused_as_an_array_that_cannot_be_read(kind: str) -> None:
    packed = pack(content(**ARRAYS))
    data = spoilt(kind)
    packed["arrays"] = ArrayRecord({**packed.array_records["arrays"], NAME: Array("uint8", (len(data),), STYPE, data)})
    assert unpack(packed) is packed
    with pytest.raises(PayloadError, match=r"'packed' cannot be read"):
        from_records(unpack(packed))


@pytest.mark.parametrize("value", [[b""], [b"", b"{}"], [b"\0\0\0\2[]", b"["], [b"\0\0\0\2[]", b"{}", b""], "text"])
def test_what_is_no_whole_message_is_refused(value: object) -> None:
    packed = RecordDict({"facts": ConfigRecord({"kind": "none", WHOLE: value})})
    assert unpack(packed) is packed
    with pytest.raises(PayloadError, match="must hold the records"):
        from_records(unpack(packed))


def test_what_is_large_or_unlike_ours_is_no_whole_message() -> None:
    many = content(**{str(n): ARRAYS["weight"] + n for n in range(2)}, large=ARRAYS["large"])
    assert [*pack(many, level=RECORDS_TOO)] == [*many]
    several = content(**{str(n): np.zeros(SMALL_BYTES // 8, np.float32) + n for n in range(9)})
    assert [*pack(several, level=RECORDS_TOO).array_records["arrays"]] == [NAME]
    other = RecordDict({**content(), "more": ConfigRecord()})
    assert pack(other, level=RECORDS_TOO) is other

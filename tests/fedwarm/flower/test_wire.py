"""Payloads as Flower records and back, their sizes, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedwarm.core.arrays import Arrays
from fedwarm.core.payload import Payload, PayloadError, check_arrays
from fedwarm.flower.wire import Encoded, Size, from_records, size_of, to_records

HEADER_BYTES = 128
NAMES = st.text(min_size=1, max_size=6)
DTYPES = st.sampled_from([np.float32, np.float64, np.int64, np.uint8])
SHAPES = hnp.array_shapes(max_dims=3, max_side=4)
ARRAYS = st.dictionaries(NAMES, DTYPES.flatmap(lambda d: hnp.arrays(d, SHAPES)), max_size=3)
FACTS = st.dictionaries(
    NAMES.filter(lambda name: name != "kind"),
    st.text(max_size=5) | st.integers(-9, 9) | st.floats(-1, 1) | st.booleans() | st.lists(st.integers(-9, 9), max_size=3),
    max_size=4,
)
METRICS = st.dictionaries(NAMES, st.integers(-(2**40), 2**40) | st.floats(allow_nan=False), max_size=3)


def like() -> Arrays:
    return {"w": np.zeros((2, 3), np.float32), "n": np.zeros(2, np.int64)}


@given(st.sampled_from(["weights", "adapter", "words"]), ARRAYS, METRICS, FACTS)
def test_round_trip(kind: Any, arrays: Arrays, metrics: dict[str, Any], facts: dict[str, Any]) -> None:
    records = to_records(Payload(kind, arrays, metrics, facts))
    back, size = from_records(records), size_of(records)
    assert back.kind == kind and back.metrics == metrics
    assert back.facts == {name: value for name, value in facts.items() if value not in ("", [])}
    assert {name: type(v) for name, v in back.metrics.items()} == {name: type(v) for name, v in metrics.items()}
    assert list(back.arrays) == list(arrays)
    for name, array in arrays.items():
        assert back.arrays[name].dtype == array.dtype and back.arrays[name].shape == array.shape
        np.testing.assert_array_equal(back.arrays[name], array)
    assert size.payload_bytes == sum(a.size * a.itemsize for a in arrays.values())


def test_an_empty_payload_is_a_message() -> None:
    records = to_records(Payload())
    assert sorted(records) == ["arrays", "facts", "metrics"]
    assert from_records(records) == Payload() and size_of(records) == Size(0, 0)


def test_empty_texts_and_lists_do_not_travel() -> None:
    records = to_records(Payload(facts={"a": "", "b": [], "c": 0, "d": False, "e": 0.0, "f": "x"}))
    facts = records["facts"]
    assert isinstance(facts, ConfigRecord)
    assert dict(facts) == {"kind": "none", "c": 0, "d": False, "e": 0.0, "f": "x"}
    assert Payload().text("a") == ""


@given(METRICS, FACTS)
def test_every_message_can_be_sized(metrics: dict[str, Any], facts: dict[str, Any]) -> None:
    records = to_records(Payload("weights", like(), metrics, facts))
    for record in records.values():
        assert record.count_bytes() > 0 or not record


def test_numpy_numbers_and_flags_become_plain_metrics() -> None:
    given_metrics: dict[str, Any] = {"i": np.int64(3), "f": np.float32(0.5), "b": True}
    back = from_records(to_records(Payload(metrics=given_metrics))).metrics
    assert back == {"i": 3, "f": 0.5, "b": 1}
    assert [type(back[name]) for name in "ifb"] == [int, float, int]


@pytest.mark.parametrize("shape", [(1,), (0,), (32,), (10, 2048), (16, 3, 5, 5), (2, 2, 2, 2, 2), (123456,)])
def test_an_array_costs_its_numbers_and_128_bytes(shape: tuple[int, ...]) -> None:
    numbers = 4 * int(np.prod(shape))
    records = to_records(Payload("weights", {"w": np.ones(shape, np.float32)}))
    assert size_of(records) == Size(numbers, numbers + HEADER_BYTES)


def test_sizes_add_up_and_are_the_bytes_in_the_message() -> None:
    arrays: Arrays = {f"layer.{i}": np.ones((i + 1, 3), np.float32) for i in range(5)}
    records = to_records(Payload("weights", arrays, {"num-examples": 4}))
    numbers = 4 * 3 * (1 + 2 + 3 + 4 + 5)
    assert size_of(records) == Size(numbers, numbers + 5 * HEADER_BYTES)
    record = records["arrays"]
    assert isinstance(record, ArrayRecord)
    assert sum(len(a.data) for a in record.values()) == numbers + 5 * HEADER_BYTES


def test_arrays_in_any_layout_travel() -> None:
    square = np.arange(12, dtype=np.float32).reshape(3, 4)
    views: Arrays = {"turned": square.T, "every other": square[:, ::2], "column": np.asfortranarray(square)}
    back = from_records(to_records(Payload("weights", views))).arrays
    for name, view in views.items():
        np.testing.assert_array_equal(back[name], view)


def test_arrays_without_dimensions_keep_their_shape() -> None:
    back = from_records(to_records(Payload("weights", {"n": np.array(3, np.int64)}))).arrays["n"]
    assert back.shape == () and back == 3


def test_messages_share_nothing() -> None:
    payload = Payload("weights", like(), {"n": 1}, {"classes": ["a", "b"]})
    first, second = to_records(payload), to_records(payload)
    assert first is not second
    for name in first:
        assert first[name] is not second[name]
    payload.arrays["w"][:] = 7
    assert not from_records(second).arrays["w"].any()
    first["arrays"].clear()
    first.config_records["facts"]["kind"] = "none"
    assert from_records(second).kind == "weights" and len(from_records(second).arrays) == 2


def test_arrays_sent_to_many_are_encoded_once() -> None:
    encoded: Encoded = {}
    arrays = like()
    messages = [to_records(Payload("weights", arrays, {"round": i}), encoded) for i in range(3)]
    other = to_records(Payload("weights", {"w": arrays["w"] + 1}), encoded)
    assert len(encoded) == 3
    for i, message in enumerate(messages):
        back = from_records(message)
        assert back.metrics == {"round": i} and size_of(message) == size_of(to_records(Payload("weights", arrays)))
        for name, array in arrays.items():
            np.testing.assert_array_equal(back.arrays[name], array)
        assert all(message[name] is not messages[i - 1][name] for name in message)
    np.testing.assert_array_equal(from_records(other).arrays["w"], arrays["w"] + 1)


@pytest.mark.parametrize("missing", ["arrays", "metrics", "facts"])
def test_a_missing_record_is_refused(missing: str) -> None:
    records = to_records(Payload("weights", like()))
    del records[missing]
    with pytest.raises(PayloadError, match="must hold the records"):
        from_records(records)


def test_a_record_of_the_wrong_sort_is_refused() -> None:
    with pytest.raises(PayloadError, match="must hold the records"):
        from_records(RecordDict({"arrays": MetricRecord(), "metrics": MetricRecord(), "facts": ConfigRecord()}))


def test_an_unknown_kind_is_refused() -> None:
    records = to_records(Payload())
    records.config_records["facts"]["kind"] = "images"
    with pytest.raises(PayloadError, match="'images'"):
        from_records(records)


def test_other_serialisations_are_refused_by_name() -> None:
    records = to_records(Payload())
    records["arrays"] = ArrayRecord({"odd": Array("float32", (1,), "torch.pickle", b"1234")})
    with pytest.raises(PayloadError, match="'odd'"):
        from_records(records)


@pytest.mark.parametrize("dtype", ["bfloat16", "no such type"])
def test_types_that_numpy_lacks_are_refused_by_name(dtype: str) -> None:
    records = to_records(Payload())
    records["arrays"] = ArrayRecord({"odd": Array(dtype, (2,), "numpy.ndarray", b"1234")})
    with pytest.raises(PayloadError, match="'odd'"):
        from_records(records)


def npy(array: Any) -> bytes:
    return Array(np.asarray(array)).data


BROKEN = {
    "empty": b"",
    "text": b"garbage",
    "header cut off": npy(np.ones(9))[:20],
    "zip": b"PK\x03\x04" + b"0" * 60,
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_broken_bytes_are_refused_by_name(data: bytes) -> None:
    records = to_records(Payload())
    records["arrays"] = ArrayRecord({"odd": Array("float64", (9,), "numpy.ndarray", data)})
    with pytest.raises(PayloadError, match="'odd'"):
        from_records(records)


def test_numbers_cut_off_are_never_read_as_other_numbers() -> None:
    for cut in range(1, 73):
        records = to_records(Payload())
        records["arrays"] = ArrayRecord({"odd": Array("float64", (9,), "numpy.ndarray", npy(np.ones(9))[:-cut])})
        with pytest.raises(PayloadError, match="'odd'"):
            from_records(records)


def test_required_numbers() -> None:
    payload = Payload(metrics={"n": 3, "bad": float("nan"), "worse": float("-inf")})
    assert payload.number("n") == 3.0
    for name, text in (("bad", "nan"), ("worse", "-inf"), ("gone", "missing")):
        with pytest.raises(PayloadError, match=f"'{name}' is {text}"):
            payload.number(name)


def test_fitting_arrays_pass() -> None:
    check_arrays(like(), like())
    check_arrays({}, {})
    check_arrays(dict(reversed(like().items())), like())


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"w": np.full((2, 3), np.nan, np.float32)}, ["w", "NaN"]),
        ({"w": np.array([[1, 2, 3], [4, 5, -np.inf]], np.float32)}, ["w", "infinity"]),
        ({"w": np.zeros((3, 2), np.float32)}, ["w", "[3, 2]", "[2, 3]"]),
        ({"w": np.zeros((6,), np.float32)}, ["w", "[6]"]),
        ({"w": np.zeros((2, 3), np.float64)}, ["w", "float64", "float32"]),
        ({"n": np.zeros(2, np.int32)}, ["n", "int32", "int64"]),
        ({"more": np.zeros(2, np.float32)}, ["more"]),
        ({"n": None}, ["n", "names"]),
    ],
)
def test_unfitting_arrays_are_refused_by_name(change: dict[str, Any], names: list[str]) -> None:
    arrays = {name: array for name, array in {**like(), **change}.items() if array is not None}
    with pytest.raises(PayloadError) as caught:
        check_arrays(arrays, like())
    assert all(name in str(caught.value) for name in names)
    assert len(str(caught.value).splitlines()) == 1

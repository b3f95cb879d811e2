"""Named arrays: casts, own memory, and the weighted mean against a slow loop."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from fedwarm.core.arrays import Arrays, WeightedMean, from_module, from_tensors, load_module, payload_bytes, to_tensors

FLOATS = st.floats(-1e6, 1e6, width=32)
CLIENTS = st.lists(st.tuples(st.lists(FLOATS, min_size=3, max_size=3), st.floats(1e-3, 1e6)), min_size=1, max_size=6)


def mean(*pairs: tuple[Arrays, float]) -> Arrays:
    total = WeightedMean()
    for arrays, weight in pairs:
        total.add(arrays, weight)
    return total.result()


def f32(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


@given(CLIENTS)
def test_weighted_mean_is_the_slow_loop_in_order(clients: list[tuple[list[float], float]]) -> None:
    pairs: list[tuple[Arrays, float]] = [({"w": f32(*values), "v": np.array(values)}, weight) for values, weight in clients]
    result = mean(*pairs)
    for i in range(3):
        total, weights = 0.0, 0.0
        for values, weight in clients:
            total += values[i] * weight
            weights += weight
        assert result["v"][i] == total / weights
        assert result["w"][i] == np.float32(total / weights)
    assert result["w"].dtype == np.float32 and result["v"].dtype == np.float64


def test_sums_run_in_the_order_of_the_calls() -> None:
    parts = [({"w": np.array([x])}, 1.0) for x in (1e16, 1.0, -1e16)]
    assert mean(*parts)["w"][0] == ((1e16 + 1.0) - 1e16) / 3
    assert mean(parts[0], parts[2], parts[1])["w"][0] == 1.0 / 3


def test_small_updates_survive_many_clients() -> None:
    """Summed in float32, ones would stop counting beside 2**24 after the first."""
    pairs: list[tuple[Arrays, float]] = [({"w": f32(value)}, 1.0) for value in (2**24, *[1] * 63)]
    assert mean(*pairs)["w"][0] == (2**24 + 63) / 64


def test_integers_come_back_as_rounded_integers() -> None:
    result = mean(({"n": np.array([1, 10], np.int64), "s": np.array([0], np.int32)}, 1.0),
                  ({"n": np.array([2, 20], np.int64), "s": np.array([3], np.int32)}, 3.0))  # fmt: skip
    assert result["n"].dtype == np.int64 and result["n"].tolist() == [2, 18]
    assert result["s"].dtype == np.int32 and result["s"].tolist() == [2]


def test_float16_is_summed_in_float64() -> None:
    result = mean(({"h": np.array([60000], np.float16)}, 1.0), ({"h": np.array([60000], np.float16)}, 1.0))
    assert result["h"].dtype == np.float16 and result["h"][0] == np.float16(60000)


def test_a_mean_of_arrays_without_dimensions_is_of_arrays() -> None:
    result = mean(({"n": np.array(2, np.int64), "x": np.array(1.0, np.float32)}, 1.0))
    assert isinstance(result["n"], np.ndarray) and isinstance(result["x"], np.ndarray)
    assert result["n"].shape == () and result["n"].dtype == np.int64 and result["x"].dtype == np.float32


def test_the_mean_of_equals_is_itself() -> None:
    values = torch.randn(50, generator=torch.Generator().manual_seed(0)).numpy()
    assert np.array_equal(mean(*[({"w": values}, 7.0)] * 4)["w"], values)


def test_inputs_are_not_written_to() -> None:
    first, second = f32(1, 2), f32(3, 4)
    mean(({"w": first}, 1.0), ({"w": second}, 1.0))["w"][:] = 9
    assert first.tolist() == [1, 2] and second.tolist() == [3, 4]


@pytest.mark.parametrize(
    ("arrays", "names"),
    [
        ({"a": f32(1)}, ["b"]),
        ({"a": f32(1), "b": f32(1), "c": f32(1)}, ["c"]),
        ({"a": f32(1), "x": f32(1)}, ["b", "x"]),
        ({"a": f32(1), "b": f32(1, 2)}, ["b", "(2,)", "(1,)"]),
        ({"a": f32(1), "b": np.ones((1, 1), np.float32)}, ["b", "(1, 1)"]),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name(arrays: Any, names: list[str]) -> None:
    total = WeightedMean()
    total.add({"a": f32(1), "b": f32(1)}, 1.0)
    with pytest.raises(ValueError, match="arrays differ|has shape") as caught:
        total.add(arrays, 1.0)
    assert all(name in str(caught.value) for name in names)


def test_what_was_refused_leaves_no_trace() -> None:
    total = WeightedMean()
    total.add({"a": f32(1), "b": f32(1)}, 1.0)
    with pytest.raises(ValueError, match="b has shape"):
        total.add({"a": f32(5), "b": f32(5, 5)}, 1.0)
    assert total.result() == {"a": f32(1), "b": f32(1)}


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_weights_that_are_no_weights_are_refused(weight: float) -> None:
    with pytest.raises(ValueError, match=r"weight (0.0|-1.0|nan|inf)"):
        WeightedMean().add({"a": f32(1)}, weight)


def test_the_mean_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no arrays to average"):
        WeightedMean().result()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_travels_as_float32(dtype: torch.dtype) -> None:
    tensor = torch.tensor([1.5, -0.25, 3.0]).to(dtype)
    array = from_tensors({"t": tensor})["t"]
    assert array.dtype == np.float32 and array.tolist() == [1.5, -0.25, 3.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool])
def test_other_types_travel_as_they_are(dtype: torch.dtype) -> None:
    tensor = torch.tensor([[1, 0], [1, 1]]).to(dtype)
    back = to_tensors(from_tensors({"t": tensor}))["t"]
    assert back.dtype == dtype and torch.equal(back, tensor)


def test_arrays_have_memory_of_their_own() -> None:
    tensor = torch.zeros(3, requires_grad=True)
    arrays = from_tensors({"t": tensor})
    with torch.no_grad():
        tensor += 1
    assert arrays["t"].tolist() == [0, 0, 0]
    back = to_tensors(arrays)["t"]
    back += 1
    assert arrays["t"].tolist() == [0, 0, 0]
    assert to_tensors({"r": np.broadcast_to(f32(1), (3,))})["r"].tolist() == [1, 1, 1]


def test_modules_and_arrays_round_trip() -> None:
    source = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    target = copy.deepcopy(source)
    source(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)))
    arrays = from_module(source)
    assert list(arrays) == list(source.state_dict())
    load_module(target, arrays)
    for name, tensor in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], tensor), name


def test_a_module_keeps_its_own_types() -> None:
    half = nn.Linear(2, 1).half()
    load_module(half, {"weight": np.ones((1, 2), np.float32), "bias": np.zeros(1, np.float32)})
    assert half.weight.dtype == torch.float16 and half.weight.tolist() == [[1, 1]]


@pytest.mark.parametrize("arrays", [{}, {"weight": np.ones((1, 2))}, {"weight": np.ones((1, 3)), "bias": np.ones(1)},
                                    {"weight": np.ones((1, 2)), "bias": np.ones(1), "more": np.ones(1)}])  # fmt: skip
def test_a_module_refuses_what_does_not_fit(arrays: Arrays) -> None:
    with pytest.raises(RuntimeError):
        load_module(nn.Linear(2, 1), arrays)


def test_payload_bytes_count_the_numbers() -> None:
    assert payload_bytes({}) == 0
    assert payload_bytes({"a": np.zeros((3, 4), np.float32), "b": np.zeros(5, np.int64), "c": np.zeros((), np.uint8)}) == 89

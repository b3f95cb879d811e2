"""The torch path draws the same bits as numpy's, and weighs candidates alike; on a GPU where there is one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedwarm.coding import device, rec
from fedwarm.coding.blocks import fixed_size
from fedwarm.coding.streams import Stream, normals

STREAM = Stream(2**64 - 1, 7, 11, nonce=b"secret")
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.gpu),
]


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize("count", [1, 5, 16, 17, 4099])
def test_the_same_bits(name: str, count: int) -> None:
    candidates = [0, 1, 127, 65535]
    wanted = np.stack([normals(STREAM.key(3), k, count) for k in candidates])
    drawn = device.normals(device.signed([STREAM.key(3)]).to(name), torch.tensor(candidates, device=name), count).cpu().numpy()
    assert drawn.dtype == np.float32 and np.array_equal(drawn, wanted)


@pytest.mark.parametrize("name", DEVICES)
def test_a_later_group_goes_on_where_the_first_stopped(name: str) -> None:
    keys, candidates = device.signed([STREAM.key(0)]).to(name), torch.tensor([5], device=name)
    whole = device.normals(keys, candidates, 160)
    assert torch.equal(device.normals(keys, candidates, 96, 5), whole[:, 64:])


def log_weights(v: NDArray[np.float64], bits: int, name: str = "cpu") -> NDArray[np.float64]:
    (found,) = device.weights(iter([STREAM.key(1)]), v, np.array([0, v.size]), bits, torch.device(name))
    return found


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize(("size", "bits"), [(3, 4), (1000, 7)])
def test_weights_agree(name: str, size: int, bits: int) -> None:
    v = np.random.default_rng(0).normal(size=size)
    ours = log_weights(v, bits, name)
    np.testing.assert_allclose(ours, rec.log_weights(STREAM.key(1), v, bits), rtol=0, atol=1e-10)


def test_weights_do_not_depend_on_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    v = np.random.default_rng(0).normal(size=1000)
    whole = log_weights(v, 5)
    for chunk in (64, 1008, 5000):
        monkeypatch.setattr(device, "CHUNK", chunk)
        np.testing.assert_allclose(log_weights(v, 5), whole, rtol=0, atol=1e-10)


@pytest.mark.gpu
def test_encoded_on_a_gpu_and_decoded_on_the_cpu() -> None:
    v = np.random.default_rng(0).normal(size=5000) / 50
    starts = fixed_size(5000, 512).starts
    chosen = [rec.encode(v, starts, 7, STREAM, np.random.default_rng(1).bytes, torch.device(d)) for d in ("cpu", "cuda")]
    assert np.array_equal(*chosen)
    for j, index in enumerate(chosen[1].tolist()):
        on_gpu = device.normals(
            device.signed([STREAM.key(j)]).to("cuda"), torch.tensor([index], device="cuda"), int(starts[j + 1] - starts[j])
        )
        assert np.array_equal(on_gpu.cpu().numpy()[0], rec.decode(chosen[1], starts, STREAM)[starts[j] : starts[j + 1]])


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize("chunk", [64, 1000, 1 << 22])
def test_decoding_many_blocks_at_once_gives_the_bits_of_one_after_another(
    name: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "CHUNK", chunk)
    sizes = np.array([1, 300, 17, 16, 64, 299, 5, 1024])
    starts = np.concatenate([[0], np.cumsum(sizes)])
    indices = np.random.default_rng(3).integers(1 << 16, size=len(sizes)).astype(np.uint16)
    keys = [STREAM.key(j) for j in range(len(sizes))]
    found = device.decode(keys, torch.from_numpy(indices.astype(np.int64)), sizes, torch.device(name))
    wanted = rec.decode(indices, starts, STREAM)
    assert found.dtype == wanted.dtype and np.array_equal(found, wanted)
    assert np.array_equal(rec.decode(indices, starts, STREAM, torch.device(name)), wanted)


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize("chunk", [64, 1000, 1 << 22])
@pytest.mark.parametrize("sizes", [[30] * 9 + [17], [1, 30, 17, 16, 64, 29, 5, 104, 100, 99], [700], []])
def test_blocks_weighed_together_weigh_what_each_does_alone(
    name: str, chunk: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes together: equal blocks, neighbours of unequal length, one that takes many chunks; the same code words."""
    monkeypatch.setattr(device, "CHUNK", chunk)
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    v = np.random.default_rng(0).normal(size=int(starts[-1])) / 10
    keys = [STREAM.key(j) for j in range(len(sizes))]
    found = list(device.weights(iter(keys), v, starts, 4, torch.device(name)))
    wanted = [rec.log_weights(key, v[starts[j] : starts[j + 1]], 4) for j, key in enumerate(keys)]
    assert len(found) == len(sizes)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-10)
    private = [np.random.default_rng(1).bytes for _ in range(2)]
    words = np.array([rec.choose(one, private[0]) for one in found], np.uint16)
    assert np.array_equal(words, rec.encode(v, starts, 4, STREAM, private[1]))


def test_what_is_weighed_together_is_bounded_and_no_more_than_half_of_it_is_filling() -> None:
    lengths = np.array([4096] * 20 + [10, 4096, 4096] + [1 << 23, 5])
    groups = list(device._neighbours(lengths, 128))
    assert [first for first, _ in groups[1:]] == [last for _, last in groups[:-1]] and groups[-1][1] == len(lengths)
    assert groups[:3] == [(0, 8), (8, 16), (16, 23)]
    for first, last in groups:
        own = lengths[first:last]
        assert last - first == 1 or len(own) * own.max() <= min(device.CHUNK // 128, 2 * own.sum())

"""The partition by embeddings: clusters that are known, their numbers, and what is dealt by them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Tensor

from fedwarm.core.clusters import nearest
from fedwarm.core.seeds import numpy_generator
from fedwarm.data.partitions import client_rows
from fedwarm.data.partitions.embedding import Embedding, clustered, clusters, embedded
from fedwarm.data.settings import Data
from fedwarm.data.tables import Column, Rows, Table, public_rows
from fedwarm.models.cnn import cnn
from fedwarm.settings.fields import SettingError

BLOBS = Embedding(clusters=3, restarts=3)
COLOURS = torch.tensor([[220, 30, 30], [30, 220, 30], [30, 30, 220]])


def table(labels: Rows | None = None, count: int = 90) -> Table:
    """Noisy images in three colours, in turn; `decoded` of the function tells how many were looked at."""
    blobs = np.arange(count) % 3
    noise = torch.randint(-20, 21, (count, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    images = (COLOURS[torch.from_numpy(blobs)][:, :, None, None] + noise).to(torch.uint8)
    chosen = blobs if labels is None else labels

    def read(rows: Rows) -> Tensor:
        DECODED.append(len(rows))
        return images[torch.from_numpy(np.asarray(rows))]

    return Table("blobs", Column(chosen, tuple("abc"[: chosen.max() + 1])), (), lambda name: Column(chosen, ()), read)


DECODED: list[int] = []


def data(alpha: float = 0.5, **more: object) -> Data:
    return Data(partition="embedding", alpha=alpha, own_settings=(Embedding(**{"clusters": 3, "restarts": 3, **more}),))  # type: ignore[arg-type]


def by_client(codes: Rows, parts: list[Rows]) -> list[list[int]]:
    return [cast(list[int], np.bincount(codes[rows], minlength=3).tolist()) for rows in parts]


def test_separated_blobs_are_the_clusters() -> None:
    """Numbered by their first members, whatever the seed."""
    for seed in range(4):
        assert np.array_equal(clusters(table(), BLOBS, seed).codes, np.arange(90) % 3)


def test_little_alpha_gives_each_blob_to_one_client() -> None:
    shared = by_client(np.arange(90) % 3, client_rows(table(), data(1e-3), 1, 2))
    assert all(sorted(column) == [0, 30] for column in zip(*shared, strict=True))


def test_much_alpha_is_even() -> None:
    for counts in by_client(np.arange(90) % 3, client_rows(table(), data(1e6), 0, 3)):
        assert all(abs(count - 10) <= 1 for count in counts)


def test_clusters_that_are_the_classes_make_the_dirichlet_partition() -> None:
    ours, labels = (
        client_rows(table(), Data(partition=p, own_settings=data().own_settings), 5, 4) for p in ("embedding", "dirichlet")
    )
    assert all(np.array_equal(a, b) for a, b in zip(ours, labels, strict=True))


def test_looks_may_differ_where_labels_do_not() -> None:
    """Every look holds both classes alike: the clients' classes are even, and their looks are not."""
    labels = np.arange(90) // 3 % 2
    parts = client_rows(table(labels), data(1e-3), 1, 2)
    for rows in parts:
        assert 0.4 <= labels[rows].mean() <= 0.6
        assert 0 in np.bincount(np.arange(90)[rows] % 3, minlength=3)


def test_public_images_are_nobodys_and_all_others_somebodys() -> None:
    public = public_rows(table(), 0.3)
    held = np.concatenate(
        client_rows(table(), Data(partition="embedding", public_share=0.3, own_settings=data().own_settings), 0, 3)
    )
    assert sorted([*public, *held]) == list(range(90))


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_change_nothing(threads: int) -> None:
    """Clusters of noise hang on the last bits of sums, if on anything."""
    noise = numpy_generator(0, "noise").integers(0, 256, (700, 3, 8, 8)).astype(np.uint8)
    images, labels = torch.from_numpy(noise), Column(np.zeros(700, np.int64), ("a",))
    with threadpool_limits(threads):
        found = clusters(Table("noise", labels, (), lambda name: labels, lambda rows: images[rows]), Embedding(restarts=2), 0)
    assert hashlib.sha256(found.codes.tobytes()).hexdigest()[:12] == "1857aa7d1378"


def test_what_is_cached_is_not_embedded_again() -> None:
    first = clusters(table(count=600), BLOBS, 0)
    DECODED.clear()
    again = clusters(table(count=600), BLOBS, 0)
    assert np.array_equal(first.codes, again.codes) and sum(DECODED) < 600
    clusters(table(count=600), BLOBS, 1)
    assert sum(DECODED) > 600


def test_numbers_are_whole_and_standardised(weights: Path) -> None:
    """Components by the longest of them, features each by itself."""
    points, features = embedded(table(), BLOBS), embedded(table(), Embedding(embedder=str(weights)))
    assert np.array_equal(points, np.rint(points)) and np.array_equal(features, np.rint(features))
    assert points.std(0).max() == pytest.approx(4096, rel=1e-3)
    spread = features.std(0)
    np.testing.assert_allclose(spread[spread > 0], 4096, rtol=1e-3)


def test_the_first_of_equal_centres_is_taken() -> None:
    codes, distances = nearest(np.array([[0.0], [3.0]]), np.array([[-1.0], [1.0], [3.0]]))
    assert codes.tolist() == [0, 2] and distances.tolist() == [1, 0]


def test_the_best_start_is_no_worse_than_one() -> None:
    points = numpy_generator(0, "points").integers(0, 1000, (200, 2)).astype(np.float64)

    def spread(restarts: int) -> float:
        codes = clustered(points, Embedding(clusters=6, restarts=restarts), 0)
        return float(sum(np.square(points[codes == j] - points[codes == j].mean(0)).sum() for j in range(6)))

    assert spread(10) <= spread(1)


def test_images_that_are_all_alike_are_one_cluster() -> None:
    flat = Table(
        "flat",
        Column(np.zeros(20, np.int64), ("a",)),
        (),
        lambda n: Column(np.zeros(0, np.int64), ()),
        lambda r: torch.zeros(len(r), 3, 8, 8, dtype=torch.uint8),
    )
    assert not clusters(flat, BLOBS, 0).codes.any()


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_file(cnn(3, 8).state_dict(), tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


def test_a_classifiers_features_can_be_clustered(weights: Path) -> None:
    settings = Embedding(clusters=3, embedder=str(weights), restarts=3)
    assert embedded(table(), settings).shape == (90, 128)
    assert np.array_equal(clusters(table(), settings, 0).codes, np.arange(90) % 3)


def test_a_file_that_does_not_fit_is_refused(weights: Path, tmp_path: Path) -> None:
    for file, model in ((weights, "logistic"), (tmp_path / "none.safetensors", "cnn")):
        with pytest.raises(SettingError, match="does not hold the weights of a"):
            client_rows(table(), data(embedder=str(file), model=model), 0, 3)


def test_refusals() -> None:
    with pytest.raises(SettingError, match="more than the 90 images"):
        client_rows(table(), data(clusters=91), 0, 3)
    with pytest.raises(SettingError, match="data.alpha"):
        client_rows(table(), data(1e-6), 0, 20)

"""The partition `embedding`: images are grouped by what they look like, and every group is shared out by Dirichlet(alpha).

Borazjani, Abdisarabshali, Khosravan, Hosseinalipour, "Redefining non-IID Data in Federated Learning for Computer Vision Tasks",
arXiv 2503.14553: embeddings, clusters, Dirichlet. The clustering is this project's choice: standardised embeddings, k-means with
k-means++ and several starts. The embedder sees all clients' images, so this is a device for simulations.

All numbers of the clustering are whole, so sums are exact in float64 and do not hang on threads or machines. Clusters are kept in
the user's cache folder under a hash of what they are made of, as every client's process deals for itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from fedwarm.core.before import before
from fedwarm.core.clusters import FINE, Points, best_means
from fedwarm.core.files import DiskError, make_folder, replacing
from fedwarm.core.seeds import numpy_generator
from fedwarm.core.store import cache_home
from fedwarm.data.partitions.dirichlet import dirichlet
from fedwarm.data.settings import Data
from fedwarm.data.tables import Column, Rows, Table
from fedwarm.settings.fields import Group, SettingError, setting
from fedwarm.settings.kinds import MODELS
from fedwarm.settings.registry import component, settings_of

PIXELS = "pixels"
SIDE, DIMENSIONS = 16, 32
PIECE, SAMPLE = 4096, 256


@dataclass(frozen=True)
class Embedding(Group, prefix="embedding"):
    """Settings of the partition by embeddings."""

    clusters: int = setting(10, "number of clusters of images, each of which is dealt to clients by itself", low=2)
    embedder: str = setting(
        PIXELS,
        "features by which images are clustered; pixels: 32 principal components of small images; or a classifier's "
        "safetensors file, whose head's inputs are the features",
        path=True,
    )
    model: str = setting(
        "cnn",
        "architecture of the classifier in embedding.embedder",
        choices=MODELS,
        when=lambda r: r["embedding.embedder"] != PIXELS,
    )
    restarts: int = setting(10, "runs of k-means from other starts; the best one is used", low=1)


def pieces(table: Table) -> Iterator[Tensor]:
    """The table's images, uint8 (k, 3, S, S), some at a time."""
    for rows in np.array_split(np.arange(len(table)), -(-len(table) // PIECE)):
        yield table.images(rows)


def components(table: Table) -> Points:
    """Principal components (n, at most 32) of the images at 16 pixels."""
    small = [
        adaptive_avg_pool2d(part.float(), min(SIDE, part.shape[-1])).round().byte().flatten(1).numpy() for part in pieces(table)
    ]
    total = np.sum([part.sum(0, dtype=np.float64) for part in small], axis=0)
    products = np.sum([part.astype(np.float64).T @ part.astype(np.float64) for part in small], axis=0)
    _, vectors = np.linalg.eigh(len(table) * products - np.outer(total, total))
    basis = vectors[:, ::-1][:, :DIMENSIONS]
    basis = basis * np.sign(basis[np.abs(basis).argmax(0), np.arange(basis.shape[1])])
    return np.concatenate([(len(table) * part.astype(np.float64) - total) @ np.rint(basis * FINE) for part in small])


def features(table: Table, settings: Embedding) -> Points:
    """What the last linear layer of a classifier sees (n, d).

    Raises:
        SettingError: the file is no state of that classifier.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    size, build = table.images(np.arange(1)).shape[-1], MODELS.load(settings.model)
    model = build(len(table.label.names), size, *(group() for group in settings_of(build)))
    try:
        model.load_state_dict(load_file(settings.embedder))
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise SettingError(
            f"embedding.embedder = {settings.embedder!r} does not hold the weights of a {settings.model} for "
            f"{len(table.label.names)} classes at {size} pixels ({type(error).__name__}); give its file, or set "
            "embedding.model"
        ) from error
    seen: list[Tensor] = []
    head = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    before(head, lambda _, features: seen.append(features.double()))
    with torch.no_grad():
        for part in pieces(table):
            model.eval()(part.float() / 127.5 - 1)
    return torch.cat(seen).numpy()


def embedded(table: Table, settings: Embedding) -> Points:
    """Standardised embeddings (n, d) in units of 1/4096, whole; principal components keep their lengths to each other."""
    found = components(table) if settings.embedder == PIXELS else features(table, settings)
    spread = found.std(0) if settings.embedder != PIXELS else found.std(0).max(keepdims=True)
    whole: Points = np.rint((found - found.mean(0)) / np.where(spread > 0, spread, 1.0) * FINE)
    return whole


def clustered(points: Points, settings: Embedding, seed: int) -> Rows:
    """The best of several starts; clusters are numbered by their first members."""
    return best_means(points, settings.clusters, settings.restarts, numpy_generator(seed, "partition", "embedding"))


def mark(table: Table, settings: Embedding, seed: int) -> str:
    """A hash of what the clusters are made of: settings, seed, labels, a sample of the images, the embedder's file."""
    file = Path(settings.embedder)
    weights = file.read_bytes() if settings.embedder != PIXELS and file.is_file() else b""
    sample = table.images(np.unique(np.linspace(0, len(table) - 1, SAMPLE).astype(np.int64))).numpy()
    text = f"{replace(settings, embedder='')} {seed} {sample.shape}"
    parts = (text.encode(), weights, table.label.codes.tobytes(), sample.tobytes())
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def cached(name: str, size: int, make: Callable[[], Rows]) -> Rows:
    """Clusters (size,) out of the cache folder, made and put there where they are missing."""
    place = None
    with suppress(SettingError):
        place = cache_home().parent / "partitions" / f"{name}.npy"
        with suppress(OSError, ValueError):
            found: Rows = np.load(place)
            if found.shape == (size,):
                return found
    codes = make()
    if place is not None:
        with suppress(DiskError, OSError):
            make_folder(place.parent, 0o700)
            with replacing(place, private=True) as temporary, temporary.open("wb") as file:
                np.save(file, codes)
    return codes


def clusters(table: Table, settings: Embedding, seed: int) -> Column:
    """The cluster of each image.

    Raises:
        SettingError: there are more clusters than images.
    """
    if settings.clusters > len(table):
        raise SettingError(
            f"embedding.clusters = {settings.clusters} is more than the {len(table)} images of {table.name}; give at most that"
        )
    codes = cached(mark(table, settings, seed), len(table), lambda: clustered(embedded(table, settings), settings, seed))
    return Column(codes, tuple(map(str, range(settings.clusters))))


@component(settings=Embedding, uses=("data.alpha",), pictures=True)
def embedding(table: Table, data: Data, seed: int, partitions: int) -> list[Rows]:
    """The rows of each client: clusters of alike images, each shared out in proportions drawn from Dirichlet(alpha)."""
    return dirichlet(replace(table, label=clusters(table, data.of(Embedding), seed)), data, seed, partitions)


COMPONENT = embedding

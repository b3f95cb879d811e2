"""What groups of alike images cost beside classes: a method's loss of accuracy against IID clients, over five seeds.

    python benchmarks/embedding.py                                                  # digits in four looks, embedded
    python benchmarks/embedding.py --data path/to/fashion_mnist --clients 20 --examples 500
    python benchmarks/embedding.py --methods fedavg fedprox scaffold fedavg_m

Clients are dealt clusters of embeddings by Dirichlet(alpha), classes by the same alpha, and classes by the alpha at which labels
differ among clients as much as they do under the clusters: the mean total variation between two clients' shares of the classes
is the same. If labels told the whole of it, accuracies of the first and the last would be alike.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from paired import Arm, Bench, accuracy, bench, parser, spread, table

from fedwarm.catalogue import parse
from fedwarm.data.opening import kept_table
from fedwarm.data.partitions import client_rows
from fedwarm.data.partitions.embedding import Embedding, clusters
from fedwarm.data.settings import Data
from fedwarm.data.tables import Column, private_part
from fedwarm.settings.fields import Value

FEW = 6000
COMMON: dict[str, Value] = {"local-epochs": 2, "learning-rate": 0.05, "momentum": 0.0, "data.image-size": 16}


def variation(codes: NDArray[np.int64], rows: list[NDArray[np.int64]]) -> float:
    """Mean total variation between two clients' shares of the codes."""
    shares = [np.bincount(codes[own], minlength=int(codes.max()) + 1) / len(own) for own in rows]
    return float(np.mean([np.abs(a - b).sum() / 2 for a, b in itertools.combinations(shares, 2)]))


def information(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    """Mutual information of two codings, as a share of the first's entropy."""
    joint = np.histogram2d(a, b, bins=(int(a.max()) + 1, int(b.max()) + 1))[0] / len(a)
    outer = joint.sum(1)[:, None] * joint.sum(0)
    own = joint.sum(1)[joint.sum(1) > 0]
    return float((joint[joint > 0] * np.log(joint[joint > 0] / outer[joint > 0])).sum() / -(own * np.log(own)).sum())


def settings_of(flat: Mapping[str, Value], partition: str, alpha: float) -> Data:
    return parse({**flat, "data.partition": partition, "data.alpha": alpha}).of(Data)


def label_variation(flat: Mapping[str, Value], partition: str, alpha: float, seed: int, clients: int) -> float:
    """How much clients' labels differ under a partition."""
    data = settings_of(flat, partition, alpha)
    found = kept_table(data)
    return variation(found.label.codes, client_rows(found, data, seed, clients))


def matched(flat: Mapping[str, Value], alpha: float, clients: int) -> float:
    """The alpha of the partition by classes at which labels differ as much as under clusters dealt by `alpha`.

    Between alphas of which some rows are dealt, the logarithm is interpolated.
    """
    wanted = label_variation(flat, "embedding", alpha, 1, clients)
    found = kept_table(settings_of(flat, "dirichlet", alpha))
    few = np.random.default_rng(0).permutation(len(found))[:FEW]
    small = replace(found, label=Column(found.label.codes[few], found.label.names))
    alphas = [alpha * 4.0**k for k in range(6)]
    shares = [
        np.mean(
            [variation(small.label.codes, client_rows(small, settings_of(flat, "dirichlet", a), s, clients)) for s in (1, 2, 3)]
        )
        for a in alphas
    ]
    return round(float(np.exp(np.interp(wanted, shares[::-1], np.log(alphas[::-1])))), 4)


def described(made: Bench, alpha: float, seed: int) -> str:
    """What the clusters have to do with the labels."""
    data = settings_of(made.settings, "embedding", alpha)
    found, private = private_part(kept_table(data), data.public_share)
    codes = clusters(found, data.of(Embedding), seed).codes
    ours = variation(codes, [np.searchsorted(private, rows) for rows in client_rows(kept_table(data), data, seed, made.clients)])
    shares = [label_variation(made.settings, partition, alpha, seed, made.clients) for partition in ("embedding", "dirichlet")]
    told = information(found.label.codes, codes)
    return (
        f"alpha {alpha:g}: clusters tell {told:.2f} of the labels; under them clusters differ by {ours:.2f} and labels by "
        f"{shares[0]:.2f}; by classes labels differ by {shares[1]:.2f}"
    )


def main() -> None:
    options = parser(__doc__, 10, 20)
    options.add_argument("--alpha", type=float, default=0.1)
    options.add_argument("--methods", nargs="+", default=["fedavg"])
    given = options.parse_args()
    made = bench(given, "embedding", COMMON)
    print(described(made, given.alpha, 1), flush=True)
    near = matched(made.settings, given.alpha, made.clients)
    print(f"classes are dealt by alpha {near:g} where labels are to differ alike", flush=True)
    for method in given.methods:
        rows = made.all(
            [
                Arm(f"{method} iid", method, {"data.partition": "iid"}),
                Arm(f"{method} clusters", method, {"data.partition": "embedding", "data.alpha": given.alpha}),
                Arm(f"{method} classes", method, {"data.partition": "dirichlet", "data.alpha": given.alpha}),
                Arm(f"{method} classes matched", method, {"data.partition": "dirichlet", "data.alpha": near}),
            ],
            given.seeds,
        )
        print("\n" + table(rows, {"accuracy, %": accuracy}), flush=True)
        gaps = [
            accuracy(a) - accuracy(b) for a, b in zip(rows[f"{method} clusters"], rows[f"{method} classes matched"], strict=True)
        ]
        print(f"\nclusters less classes matched, accuracy: {spread(gaps)} points", flush=True)


if __name__ == "__main__":
    main()

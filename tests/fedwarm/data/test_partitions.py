"""Partitions: every kind on digits and on made-up tables, against flwr-datasets, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedwarm.data.partitions import client_rows, own_clients
from fedwarm.data.sets.digits import digits_table
from fedwarm.data.settings import Data
from fedwarm.data.tables import Rows, Table, coded
from fedwarm.settings.fields import SettingError

DIGITS = digits_table(32)
ALL = ("domain", "iid", "dirichlet", "pathological", "natural")


def made(labels: Sequence[int], **columns: Sequence[int] | Sequence[str]) -> Table:
    """A table without pictures."""
    held = {"label": coded(labels)} | {name: coded(values) for name, values in columns.items()}
    return Table("made", held["label"], tuple(held), held.__getitem__, lambda rows: torch.zeros(len(rows), 3, 8, 8))


def check_dealt(parts: list[Rows], n: int, *, whole: bool = True) -> None:
    """Disjoint, sorted, at least two each, and nothing left over."""
    joined = np.concatenate(parts)
    assert len(np.unique(joined)) == len(joined)
    assert all(len(part) >= 2 and (np.diff(part) > 0).all() for part in parts)
    assert not whole or len(joined) == n


@pytest.mark.parametrize("kind", ALL)
def test_the_whole_set_is_dealt_once(kind: str) -> None:
    data = Data(partition=kind)
    clients = 4 if kind == "natural" else 10
    parts = client_rows(DIGITS, data, 0, clients)
    assert len(parts) == clients
    check_dealt(parts, len(DIGITS))


@pytest.mark.parametrize("kind", ["iid", "dirichlet", "pathological", "domain"])
def test_the_seed_decides(kind: str) -> None:
    data = Data(partition=kind)
    first, again, other = (client_rows(DIGITS, data, seed, 8) for seed in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_iid_is_what_flwr_datasets_makes_of_the_shuffled_rows() -> None:
    from datasets import Dataset
    from flwr_datasets.partitioner import IidPartitioner

    from fedwarm.core.seeds import numpy_generator

    partitioner = IidPartitioner(7)
    partitioner.dataset = Dataset.from_dict({"row": numpy_generator(5, "partition").permutation(1797)})
    for i, rows in enumerate(client_rows(DIGITS, Data(partition="iid"), 5, 7)):
        np.testing.assert_array_equal(rows, sorted(partitioner.load_partition(i)["row"]))


@pytest.mark.parametrize("kind", ["dirichlet", "pathological"])
def test_drawn_partitions_are_flwr_datasets_own(kind: str) -> None:
    from datasets import Dataset
    from flwr_datasets.partitioner import DirichletPartitioner, PathologicalPartitioner

    from fedwarm.core.seeds import derive, numpy_generator

    number = derive(5, "partition", kind)
    if kind == "dirichlet":
        partitioner = DirichletPartitioner(12, "label", 0.5, min_partition_size=2, seed=number)
    else:
        partitioner = PathologicalPartitioner(12, "label", 2, "first-deterministic", seed=number)
    order = numpy_generator(5, "partition").permutation(1797)
    partitioner.dataset = Dataset.from_dict({"row": order, "label": DIGITS.label.codes[order]})
    for i, rows in enumerate(client_rows(DIGITS, Data(partition=kind, classes_per_client=2, alpha=0.5), 5, 12)):
        np.testing.assert_array_equal(rows, sorted(partitioner.load_partition(i)["row"]))


def test_natural_is_what_flwr_datasets_makes_of_the_ids() -> None:
    from datasets import Dataset
    from flwr_datasets.partitioner import NaturalIdPartitioner

    ids = [f"w{i}" for i in np.random.default_rng(0).permutation(np.repeat(np.arange(12), np.arange(2, 14)))]
    table = made([0] * len(ids), writer_id=ids)
    partitioner = NaturalIdPartitioner("writer_id")
    partitioner.dataset = Dataset.from_dict({"row": np.arange(len(ids)), "writer_id": ids})
    assert own_clients(table, Data(partition="natural")) == partitioner.num_partitions == 12
    for i, rows in enumerate(client_rows(table, Data(partition="natural"), 0, 12)):
        np.testing.assert_array_equal(rows, partitioner.load_partition(i)["row"][:])


def test_iid_parts_differ_by_at_most_one() -> None:
    sizes = [len(rows) for rows in client_rows(DIGITS, Data(partition="iid"), 0, 100)]
    assert set(sizes) == {17, 18}


def test_small_alpha_makes_clients_less_alike() -> None:
    def spread(alpha: float) -> float:
        parts = client_rows(DIGITS, Data(partition="dirichlet", alpha=alpha), 1, 8)
        shares = np.array([np.bincount(DIGITS.label.codes[rows], minlength=10) / len(rows) for rows in parts])
        return float(shares.std(0).mean())

    assert spread(0.1) > 1.5 * spread(1.0) > 1.5 * 1.5 * spread(100.0)


def test_dirichlet_mixes_the_domains() -> None:
    domain = DIGITS.column("domain").codes
    for rows in client_rows(DIGITS, Data(partition="dirichlet", alpha=10.0), 0, 4):
        assert np.bincount(domain[rows], minlength=4).min() > 0.15 * len(rows)


@pytest.mark.parametrize("classes", [1, 3, 10])
def test_pathological_clients_hold_as_many_classes_as_asked(classes: int) -> None:
    parts = client_rows(DIGITS, Data(partition="pathological", classes_per_client=classes), 2, 20)
    held = [set(DIGITS.label.codes[rows]) for rows in parts]
    assert all(len(some) == classes for some in held)
    assert all(i % 10 in some for i, some in enumerate(held))


def test_a_class_that_nobody_drew_is_nobodys() -> None:
    parts = client_rows(DIGITS, Data(partition="pathological", classes_per_client=2), 0, 3)
    check_dealt(parts, len(DIGITS), whole=False)
    drawn = set(DIGITS.label.codes[np.concatenate(parts)])
    assert 3 <= len(drawn) <= 6 and sum(map(len, parts)) == np.isin(DIGITS.label.codes, list(drawn)).sum()


@pytest.mark.parametrize("clients", [1, 2, 3, 4])
def test_few_clients_share_out_whole_domains(clients: int) -> None:
    domain = DIGITS.column("domain").codes
    for i, rows in enumerate(client_rows(DIGITS, Data(), 0, clients)):
        np.testing.assert_array_equal(rows, np.flatnonzero(domain % clients == i))


@pytest.mark.parametrize("clients", [5, 11, 100])
def test_many_clients_split_each_domain_evenly(clients: int) -> None:
    domain = DIGITS.column("domain").codes
    parts = client_rows(DIGITS, Data(), 0, clients)
    check_dealt(parts, len(DIGITS))
    for j in range(4):
        assert all((domain[rows] == j).all() for rows in parts[j::4])
        assert np.ptp([len(rows) for rows in parts[j::4]]) <= 1


def test_fewer_clients_than_ids_are_a_sorted_choice() -> None:
    table = made([0] * 60, user_id=[f"u{i % 20:02}" for i in range(60)])
    codes = table.column("user_id").codes
    chosen = [[int(codes[rows[0]]) for rows in client_rows(table, Data(partition="natural"), seed, 6)] for seed in range(5)]
    assert all(some == sorted(set(some)) and len(some) == 6 for some in chosen)
    assert len({tuple(some) for some in chosen}) > 1


def test_ids_with_a_single_image_make_no_client() -> None:
    table = made([0] * 7, user_id=["a", "b", "b", "c", "d", "d", "d"])
    data = Data(partition="natural")
    assert own_clients(table, data) == 2
    assert [rows.tolist() for rows in client_rows(table, data, 0, 2)] == [[1, 2], [4, 5, 6]]


def test_partition_by_names_the_column() -> None:
    table = made([0, 0, 1, 1], writer_id=[0, 0, 0, 0], site=["x", "y", "x", "y"])
    data = Data(partition="natural", partition_by="site")
    assert [rows.tolist() for rows in client_rows(table, data, 0, 2)] == [[0, 2], [1, 3]]


FOUR = made([0, 0, 1, 1], writer_id=[0, 0, 1, 1])


@pytest.mark.parametrize(
    ("table", "changes", "clients", "message"),
    [
        (DIGITS, {"partition": "iid"}, 899, "899 clients are too many for the 1797 images of digits.*at most 898 clients"),
        (DIGITS, {"partition": "iid"}, 0, "at least 1 is needed"),
        (
            DIGITS,
            {"partition": "pathological", "classes_per_client": 11},
            5,
            "classes-per-client = 11 .* the 10 classes of digits",
        ),
        (
            DIGITS,
            {"partition": "dirichlet", "alpha": 0.001},
            100,
            "data.alpha = 0.001 is too small for 100 clients.*fewer than 2",
        ),
        (DIGITS, {"partition": "natural"}, 5, "5 clients are more than the 4 ids of digits .* at most 4"),
        (
            DIGITS,
            {"partition": "natural", "partition_by": "domian"},
            2,
            r"'domian' is no column of digits .*did you mean domain\?",
        ),
        (FOUR, {"partition": "domain"}, 2, "needs a column `domain`; made has label, writer_id; choose iid"),
        (made([0, 1, 0, 1]), {"partition": "natural"}, 2, "needs a column of ids; made has label; set data.partition-by"),
        (made([0] * 5 + [1] * 2), {"partition": "pathological", "classes_per_client": 2}, 3, "need more images of some class"),
        (made([0] * 6, domain=[0, 0, 0, 0, 1, 1]), {}, 3, None),
        (
            made([0] * 8, domain=[0, 0, 0, 0, 0, 1, 1, 1]),
            {},
            4,
            "gives client 3 of 4 only 1 of the images of made.*fewer clients",
        ),
    ],
)
def test_what_cannot_be_dealt_is_refused_with_the_reason(
    table: Table, changes: dict[str, str | int | float], clients: int, message: str | None
) -> None:
    data = replace(Data(), **changes)  # type: ignore[arg-type]
    if message is None:
        check_dealt(client_rows(table, data, 0, clients), len(table))
        return
    with pytest.raises(SettingError, match=message) as refused:
        client_rows(table, data, 0, clients)
    assert "\n" not in str(refused.value)


@given(
    labels=st.lists(st.integers(0, 4), min_size=2, max_size=60),
    kind=st.sampled_from(ALL),
    clients=st.integers(1, 8),
    seed=st.integers(0, 2**63 - 1),
    alpha=st.floats(1e-6, 1e6),
    classes=st.integers(1, 5),
)
@settings(max_examples=60)
def test_any_table_is_dealt_or_refused(labels: list[int], kind: str, clients: int, seed: int, alpha: float, classes: int) -> None:
    table = made(labels, domain=[(i * i) % 3 for i in range(len(labels))])
    data = Data(partition=kind, alpha=alpha, classes_per_client=classes)
    try:
        parts = client_rows(table, data, seed, clients)
    except SettingError:
        return
    assert len(parts) == clients
    check_dealt(parts, len(labels), whole=kind in ("iid", "dirichlet", "domain"))

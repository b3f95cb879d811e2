"""Several data sets as one federation, labels skewed inside domains, and what a filter makes public."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fedwarm.catalogue import parse
from fedwarm.data.partitions import client_rows
from fedwarm.data.provenance import PUBLIC, Source
from fedwarm.data.sets.digits import DOMAINS, digits_table
from fedwarm.data.settings import Data
from fedwarm.data.shards import load_shard, open_table
from fedwarm.data.tables import private_part, public_of
from fedwarm.diffusion.pretraining.captions import public_part
from fedwarm.settings.fields import SettingError
from tests.sets import write_split

DIGITS = digits_table(8)


def sources(of: str, **more: object) -> Data:
    flat = {"data.name": "united", "united.of": of, "data.image-size": 8, **{k.replace("__", "."): v for k, v in more.items()}}
    return parse(flat).of(Data)  # type: ignore[arg-type]


def test_sources_are_domains_with_the_classes_that_all_have(tmp_path: Path) -> None:
    """`seven` and `7` are one class; classes that a source lacks are in nobody's hands, and every picture is its own source's."""
    folder = tmp_path / "letters"
    write_split(folder, "train", ["7", "A", "A", "3", "7", "A"])
    data = sources(f"scans=digits, letters={folder}")
    table = open_table(data)
    assert table.label.names == ("3", "7") and table.column("domain").names == ("scans", "letters")
    domain, label = table.column("domain").codes, table.label.codes
    assert [table.label.names[code] for code in label[domain == 1]] == ["7", "3", "7"]
    wanted = np.flatnonzero(np.isin(DIGITS.label.codes, [3, 7]))
    assert (domain == 0).sum() == len(wanted)
    rows = np.array([len(table) - 1, 5, len(table) - 3, 0])
    assert torch.equal(table.images(rows)[[1, 3]], DIGITS.images(wanted[[5, 0]]))
    alone = open_table(replace(data, name=str(folder), own_settings=())).images(np.array([4, 0]))
    assert torch.equal(table.images(rows)[[0, 2]], alone)
    shard = load_shard(replace(data, partition="domain"), 0, 1, 2)
    assert len(shard.train_labels) + len(shard.test_labels) == 3


def test_a_source_may_give_a_part_with_as_many_of_each_class() -> None:
    data = sources("a=digits, b=digits", united__examples=40)
    table = open_table(data)
    for code in (0, 1):
        mine = table.label.codes[table.column("domain").codes == code]
        assert np.bincount(mine).tolist() == [4] * 10
    assert not torch.equal(table.images(np.arange(40)), table.images(np.arange(40, 80)))


@pytest.mark.parametrize(
    ("of", "words"),
    [
        ("", "must name each source once"),
        ("a=digits, a=digits", "must name each source once"),
        ("a=united", "names 'united' itself"),
        ("a=digits, b=/nowhere/at/all", "united.of, b: "),
        ("a=digits, b=breast-cancer", "united.of, b: "),
    ],
)
def test_sources_that_cannot_be_are_refused_in_words(of: str, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        open_table(sources(of))


@pytest.mark.parametrize("clients", [4, 8, 12, 3])
def test_labels_are_skewed_inside_each_domain(clients: int) -> None:
    """A client has two classes of its own domain; with fewer clients than domains, of those that it has."""
    data = Data(partition="domain-pathological", classes_per_client=2)
    for i, rows in enumerate(client_rows(DIGITS, data, 5, clients)):
        assert len({*DIGITS.label.codes[rows]}) == 2
        domains = {*DIGITS.column("domain").codes[rows]}
        assert domains == {i % 4} if clients >= 4 else len(domains) <= 2


def test_dirichlet_inside_domains_deals_each_domain_among_its_clients() -> None:
    parts = client_rows(DIGITS, Data(partition="domain-dirichlet", alpha=0.1), 5, 8)
    for j in range(4):
        rows = np.sort(np.concatenate([parts[j], parts[j + 4]]))
        assert np.array_equal(rows, np.flatnonzero(DIGITS.column("domain").codes == j))
    shares = [np.bincount(DIGITS.label.codes[rows], minlength=10) / len(rows) for rows in parts]
    assert max(float(share.max()) for share in shares) > 0.2


def test_a_filter_says_what_is_public() -> None:
    """Whole domains, in nobody's hands; what learns from the public part has these and no others."""
    data = Data(public_where="domain=chalk, tilt", partition="iid")
    public = public_of(DIGITS, 0.0, data.public_where)
    assert {DOMAINS[code] for code in DIGITS.column("domain").codes[public]} == {"chalk", "tilt"}
    private, rows = private_part(DIGITS, 0.0, data.public_where)
    assert not {*rows} & {*public} and len(rows) + len(public) == len(DIGITS) and len(private) == len(rows)
    held = np.concatenate(client_rows(DIGITS, data, 0, 5))
    assert np.array_equal(np.sort(held), rows)
    small = replace(data, image_size=8)
    assert len(public_part(small).labels) == len(public) and public_part(small).provenance()["public_where"] == data.public_where
    assert np.array_equal(Source(PUBLIC, small).rows(DIGITS), public)


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("domain", "must be column=value"),
        ("domain=chalkk", r"has no 'chalkk' \(did you mean chalk\?\); it has chalk, ink, neon, tilt"),
        ("look=chalk", "no column 'look'"),
        ("domain=chalk,ink,neon,tilt", "leaves clients nothing"),
    ],
)
def test_a_filter_that_names_nothing_is_refused(where: str, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        client_rows(DIGITS, Data(public_where=where, partition="iid"), 0, 2)

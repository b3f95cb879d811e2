"""Rows of one group are held out together, or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedwarm.data.heldout import held
from fedwarm.data.opening import read_table
from fedwarm.data.settings import Data
from fedwarm.data.shards import _splits, load_shard
from fedwarm.settings.fields import SettingError
from tests.fedwarm.data.test_own import holding

PATIENTS, ROWS = 24, 5


def written(path: Path) -> Path:
    """Twelve patients of each of two hospitals, five rows each, of one class in a patient."""
    lines = [f"{p}.{r},{p},{'ab'[p % 2]},{'cd'[p // 12]}" for r in range(ROWS) for p in range(PATIENTS)]
    path.write_text("\n".join(["x,patient,label,site", *lines]) + "\n")
    return path


def test_a_group_is_tested_on_or_trained_on(tmp_path: Path) -> None:
    path = str(written(tmp_path / "t.csv"))
    data = Data(name=path, group_column="patient", test_fraction=0.25, validation_fraction=0.2, standardise="none")
    assert read_table(data).features == ("x",)  # who it is of is no input
    patients = read_table(data).column("patient").codes
    for seed in range(3):
        for train, test, back in _splits(data, seed, 2):
            parts = [{*patients[rows].tolist()} for rows in (train, test, back)]
            assert [len(part) for part in parts] == [7, 3, 2] and len(set.union(*parts)) == 12
            assert [len(rows) for rows in (train, test, back)] == [35, 15, 10]
    assert len({tuple(_splits(data, seed, 2)[0][1]) for seed in range(3)}) > 1
    own = holding(tmp_path, **{"data.group-column": "patient", "data.standardise": "none"}).shard()
    assert not {*own.train_images[:, 0].int().tolist()} & {*own.test_images[:, 0].int().tolist()}


def test_groups_are_drawn_in_the_proportions_of_their_usual_classes() -> None:
    """Forty groups of class 0 and twenty of class 1, each with one row of the other."""
    labels = np.array([[int(g >= 40)] * 4 + [int(g < 40)] for g in range(60)]).ravel()
    groups = np.repeat(np.arange(60), 5)
    for seed in range(5):
        out = held(labels, np.arange(300), 0.2, np.random.default_rng(seed), groups)
        chosen = np.unique(groups[out])
        assert out.sum() == 60 and (chosen < 40).sum() == 8 and (chosen >= 40).sum() == 4


@pytest.mark.parametrize(
    ("settings", "clients", "said"),
    [
        ({"partition": "iid"}, 2, r"data.group-column = 'patient': \d+ of its 24 values are dealt to several clients"),
        ({"partition": "natural", "partition_by": "patient"}, 24, "client 0 holds rows of one value alone"),
        ({"public_share": 0.2}, 2, "data.public-share = 0.2 makes single rows public, and data.group-column"),
        ({"group_column": "patients"}, 2, "no column 'patients'"),
    ],
)
def test_what_does_not_go_with_groups_is_refused(settings: dict[str, object], clients: int, said: str, tmp_path: Path) -> None:
    fields = {"name": str(written(tmp_path / "t.csv")), "group_column": "patient"} | settings
    with pytest.raises(SettingError, match=said):
        load_shard(Data(**fields), 0, 0, clients)  # type: ignore[arg-type]


def test_the_column_that_deals_rows_is_no_input(tmp_path: Path) -> None:
    data = Data(name=str(written(tmp_path / "t.csv")), partition="natural", partition_by="patient", standardise="none")
    assert load_shard(data, 0, 0, PATIENTS).columns == ("x",)

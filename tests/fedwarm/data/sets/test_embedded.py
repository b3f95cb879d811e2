"""The embedded tables: the known data in the known order, at sites that differ and overlap."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes

from fedwarm.data import embedded
from fedwarm.data.opening import read_table
from fedwarm.data.settings import Data
from fedwarm.data.shards import default_clients
from fedwarm.settings.fields import SettingError


def test_breast_cancer_is_scikit_learns() -> None:
    found, known = read_table(Data(name="breast_cancer")), load_breast_cancer()
    rows = np.arange(569)
    assert np.array_equal(found.images(rows).numpy(), known.data.astype(np.float32))
    assert np.array_equal(found.label.codes, known.target) and found.label.names == tuple(known.target_names)
    assert len(found.features) == 30


def test_diabetes_is_scikit_learns_and_has_classes_for_tasks_that_want_them() -> None:
    found, known = read_table(Data(name="diabetes", targets="numbers")), load_diabetes(scaled=False)
    rows = np.arange(442)
    np.testing.assert_allclose(found.images(rows).numpy(), known.data.astype(np.float32))
    assert np.array_equal(found.answers(rows).numpy(), known.target.astype(np.float32)) and found.label.names == ("progress",)
    thirds = np.bincount(read_table(Data(name="diabetes")).label.codes)
    assert len(thirds) == 3 and thirds.min() > 140


def test_planted_sites_are_of_equal_size_and_differ() -> None:
    found = read_table(Data(name="breast-cancer"))
    site, malignant = found.column("site").codes, found.label.codes == 0
    shares = [malignant[site == k].mean() for k in range(4)]
    assert np.ptp(np.bincount(site)) <= 1 and shares == sorted(shares) and shares[-1] - shares[0] > 0.5
    assert all(0 < share < 1 for share in shares) and default_clients(Data(name="breast_cancer")) == 4


def test_without_scikit_learn_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "find_spec", lambda name: None)
    with pytest.raises(SettingError, match="data.name = 'diabetes' is read from scikit-learn, .*pip install scikit-learn"):
        read_table(Data(name="diabetes"))

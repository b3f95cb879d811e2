"""A run's predictions take a table's columns as they are in its data set, or as training scaled them where that is said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fedwarm.api.result import Result
from fedwarm.catalogue import parse
from fedwarm.data.settings import Data
from fedwarm.data.shards import central_tests, open_table
from fedwarm.settings.fields import SettingError, Value
from tests.runs import run

TABLE: dict[str, Value] = {
    "data.name": "breast_cancer", "model.name": "tests.tabular:rows", "num-server-rounds": 3, "local-epochs": 2,
}  # fmt: skip


def test_raw_rows_are_scaled_as_training_did(tmp_path: Path) -> None:
    outcome = run("fedavg", tmp_path / "run", TABLE, clients=2)
    data, rows = parse(outcome.results["settings"]).of(Data), np.arange(40)
    table, (seen, _) = open_table(data), central_tests(data, 0, 2)
    result, raw = Result(outcome.folder), table.images(rows)
    assert torch.equal(result.outputs(raw), result.outputs(seen.images(rows), scaled=True))
    assert torch.equal(result.probabilities(raw), result.probabilities(seen.images(rows), scaled=True))
    right = result.predict(raw.tolist()) == torch.from_numpy(table.label.codes[rows])
    assert right.float().mean() > 0.8 and not torch.equal(result.outputs(raw, scaled=True), result.outputs(raw))


def test_where_the_scale_is_not_known_they_must_be_given_scaled(tmp_path: Path) -> None:
    outcome = run("fedavg", tmp_path / "run", {**TABLE, "num-server-rounds": 1, "local-epochs": 1}, clients=2)
    results = outcome.results
    results["settings"]["data.name"] = "gone/away.csv"
    (outcome.folder / "results.json").write_text(json.dumps(results))
    result, rows = Result(outcome.folder), torch.zeros(2, 30)
    with pytest.raises(SettingError, match="'auto' scaled them by gone/away.csv, which is not here; .* scaled=True"):
        result.predict(rows)
    assert result.predict(rows, scaled=True).shape == (2,)

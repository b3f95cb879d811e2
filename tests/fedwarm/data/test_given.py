"""Data that a function gives: what it may be, how it is read, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedwarm.data.given import given
from fedwarm.data.opening import fitting, read_table
from fedwarm.data.partitions import client_rows
from fedwarm.data.settings import Data
from fedwarm.data.shards import default_clients, load_pooled, load_shard
from fedwarm.data.tables import Column, Table, coded
from fedwarm.settings.fields import SettingError

X = np.arange(24.0).reshape(12, 2)


def table(found: Any, targets: str = "classes", split: str = "train", **settings: Any) -> Table:
    data = Data(name="mine:load", targets=targets, **settings)
    return fitting(given(lambda: found, data, split), data)


def test_inputs_keep_whole_numbers_and_reals_become_float32() -> None:
    label = [0, 1] * 6
    for values, dtype in ((X, "float32"), (X.astype(np.int32), "int64"), (X.astype(np.uint8), "uint8"), (X > 3, "float32")):
        found = table((values, label))
        assert (found.form_at(0).dtype, found.form_at(0).shape) == (dtype, (2,))
        assert torch.equal(found.images(np.array([3, 0])), torch.as_tensor(values)[[3, 0]].to(getattr(torch, dtype)))


def test_a_vocabulary_is_as_large_as_the_largest_token() -> None:
    tokens = np.array([[0, 4], [7, 2]])
    assert table((tokens, [0, 1])).form_at(0).vocabulary == 8
    assert table((tokens - 1, [0, 1])).form_at(0).vocabulary == 0  # numbers below 0 are no tokens
    told = table((tokens, np.array([[4, 9], [2, 1]])), "tokens")
    assert told.form_at(0).vocabulary == len(told.label.names) == 10


def test_classes_are_numbers_texts_or_truth_values() -> None:
    assert table((X, np.arange(12) % 3)).label.names == ("0", "1", "2")
    assert table((X, ["b", "a"] * 6)).label.codes.tolist() == [1, 0] * 6
    assert table((X, [True, False] * 6)).label.names == ("0", "1")
    assert table({"inputs": X, "targets": [0, 1] * 6, "classes": ["no", "yes", "?"]}).label.names == ("no", "yes", "?")


def test_numbers_are_targets_of_their_own_shape() -> None:
    one, two = table((X, X[:, 0]), "numbers"), table((X, (X > 2).astype(int)), "labels")
    assert one.targets is not None and one.targets.shape == (12,) and one.label.names == ("target",)
    assert torch.equal(two.answers(np.array([1])), torch.tensor([[0.0, 1.0]])) and two.label.names == ("target 0", "target 1")
    assert table((X, np.arange(12)), "numbers").answers(np.array([5])).tolist() == [5.0]
    one = table((X, [0.0, 1.0] * 6), "labels")
    assert one.targets is not None and one.targets.shape == (12, 1)


def test_named_classes_are_those_that_are_named() -> None:
    found = table({"inputs": X, "targets": ["b", "a"] * 6, "classes": ["b", "a", "c"]})
    assert found.label.names == ("b", "a", "c") and found.label.codes.tolist() == [0, 1] * 6


def test_a_column_of_splits_parts_the_rows() -> None:
    found = (X, [0, 1] * 6, {"split": ["train"] * 8 + ["test"] * 4, "site": list("aabb" * 3)})
    assert len(table(found)) == 8 and table(found, split="test").images(np.array([0])).tolist() == [[16.0, 17.0]]
    assert table(found).column("site").names == ("a", "b")
    with pytest.raises(SettingError, match=r"has no split 'dev', only test, train; name one in data\.test-split"):
        table(found, split="dev")
    with pytest.raises(SettingError, match=r"has no split 'test'; set data\.test = 'held-out'"):
        table((X, [0, 1] * 6), split="test")


def test_a_split_of_a_given_table_has_the_originals_of_its_own_rows() -> None:
    base = table((X, [0, 1] * 6, {"split": ["train"] * 8 + ["test"] * 4}), split="train")
    whole = Table(
        "mine", Column(np.arange(12) % 2, ("a", "b")), ("split",), lambda _: coded(["train"] * 8 + ["test"] * 4),
        lambda rows: torch.from_numpy(rows), originals=lambda rows, side: [torch.tensor(row) for row in rows.tolist()],
        remarks=lambda: ["told"],
    )  # fmt: skip
    found = given(lambda: whole, Data(name="mine:load"), "test")
    assert found.originals is not None and found.originals(np.array([0, 3]), 8) == [torch.tensor(8), torch.tensor(11)]
    assert found.remarks() == ["told"] and base.originals is None


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (X, r"gives ndarray; give \(inputs, targets\)"),
        ((X, [0, 1]), r"gives 12 inputs and targets of shape \(2,\); give one target for each input"),
        ((np.array(["a", "b"]), [0, 1]), "are not an array of numbers"),
        (
            (np.where(X == 7, np.nan, X), [0, 1] * 6),
            r"the inputs of mine:load hold nan in row 3, place \[1\]; correct that value",
        ),
        ((X, [-1, 1] * 6), "gives classes -1 to 1; count them from 0"),
        ((X, X[:, 0]), r"the task wants classes .*, and the targets of mine:load are numbers"),
        ((X, [0, 1] * 6, {"site": [1]}), r"column 'site' of mine:load has shape \(1,\); give one value for each of 12 inputs"),
        ((np.empty((0, 2)), []), "hold no example"),
    ],
)
def test_what_is_no_data_is_refused_in_a_line(found: Any, told: str) -> None:
    with pytest.raises(SettingError, match=told):
        table(found)


def test_numbers_that_are_not_finite_are_no_targets() -> None:
    with pytest.raises(SettingError, match="the targets of mine:load hold inf in row 2; correct that value"):
        table((X, np.where(np.arange(12) == 2, np.inf, 1.0)), "numbers")


def test_a_function_that_fails_is_named() -> None:
    def broken() -> None:
        raise KeyError("colour")

    with pytest.raises(SettingError, match=r"data.name = 'mine:load' fails: KeyError: 'colour'; correct that function"):
        given(broken, Data(name="mine:load"))


def test_examples_without_columns_are_one_domain_dealt_at_random() -> None:
    found, data = table((np.arange(80.0).reshape(40, 2), [0, 1] * 20)), Data(name="mine:load")
    parts = client_rows(found, data, 0, 4)
    assert [len(rows) for rows in parts] == [10] * 4 and sorted(np.concatenate(parts)) == list(range(40))
    with pytest.raises(SettingError, match="needs data whose inputs are pictures, and mine:load has others; choose iid"):
        client_rows(found, Data(name="mine:load", partition="embedding"), 0, 4)


@pytest.mark.parametrize("partition", ["dirichlet", "pathological"])
def test_partitions_by_class_refuse_numbers(partition: str) -> None:
    with pytest.raises(SettingError, match=f"data.partition = '{partition}' needs data whose targets are classes"):
        client_rows(table((X, X[:, 0]), "numbers"), Data(name="mine:load", partition=partition), 0, 2)


MODULE = """
import numpy as np

def load():
    x = np.arange(90.0).reshape(30, 3)
    return x, x[:, 0] / 90, {"site": ["a"] * 10 + ["b"] * 12 + ["c"] * 8}
"""


def test_shards_of_a_module_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some_numbers.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    data = Data(name="some_numbers:load", partition="natural", partition_by="site", targets="numbers")
    assert default_clients(data) == 3
    shard = load_shard(data, 0, 1, 3)
    assert (len(shard.train_labels), len(shard.test_labels)) == (9, 3) and shard.form.shape == (3,)
    assert shard.counts() == [] and shard.classes == ("target",) and not shard.classed
    assert torch.allclose(shard.train_labels, shard.train_images[:, 0] / 90)
    assert len(load_pooled(data, 0, 3).train_labels) == 23  # 8 of 10, 9 of 12, 6 of 8
    with pytest.raises(SettingError, match=r"data.rotation = 9 turns pictures, and some_numbers:load has float32 inputs"):
        load_shard(Data(name="some_numbers:load", partition="iid", targets="numbers", rotation=9.0), 0, 0, 2)
    assert read_table(data).form_at(0).dtype == "float32"

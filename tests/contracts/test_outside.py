"""Components by `module:attribute` out of the current folder: they keep the contracts, get their own settings, and run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedwarm.aggregators import Robust, needs
from fedwarm.catalogue import parse
from fedwarm.data.partitions import client_rows
from fedwarm.data.settings import Data
from fedwarm.data.shards import load_shard, open_table
from fedwarm.faults import faults_of
from fedwarm.launch.preflight import check_run
from fedwarm.models import Model, build_model
from fedwarm.settings import kinds
from fedwarm.settings.fields import SettingError, Value
from tests.contracts import test_faults, test_models, test_objectives, test_partitions, test_rules, test_sets
from tests.runs import run

MODULE = "components_from_elsewhere"
CODE = '''
"""Components of somebody else."""

from dataclasses import dataclass

import numpy as np
import torch

from fedwarm.aggregators import Held, unweighted
from fedwarm.core.arrays import WeightedMean
from fedwarm.data.tables import Column, Table
from fedwarm.faults import Spoilt
from fedwarm.objectives import Objective
from fedwarm.settings.fields import Group, SettingError, setting
from fedwarm.settings.registry import component
from fedwarm.training.loop import Hook


@dataclass(frozen=True)
class Middle(Group, prefix="middle"):
    share: float = setting(0.25, "share of the replies left out at each end", low=0.0, high=0.49)


@component(settings=Middle, does=unweighted, fewest=lambda robust: 4)
def middle(values, robust):
    """The mean of the middle replies."""
    cut = int(np.ceil(robust.of(Middle).share * len(values)))
    return np.sort(values, axis=0)[cut : len(values) - cut].mean(axis=0)


class Nearest(Held):
    """The replies nearest to the median."""

    def combine(self):
        middle = {name: np.median([reply[name] for reply in self.replies], axis=0) for name in self.replies[0]}
        far = [sum(float(np.abs(r[n].astype(float) - middle[n]).sum()) for n in r) for r in self.replies]
        mean = WeightedMean()
        for i in sorted(np.argsort(far)[: (len(far) + 1) // 2].tolist()):
            mean.add(self.replies[i], 1.0)
        return mean.result()


@dataclass(frozen=True)
class Stripes(Group, prefix="stripes"):
    count: int = setting(60, "images", low=20)
    classes: int = setting(3, "classes", low=2)


def table(data, count, begin):
    codes = np.arange(count) % data.of(Stripes).classes
    label = Column(codes, tuple("abcdefghij"[: data.of(Stripes).classes]))

    def column(name):
        if name != "label":
            raise SettingError(f"stripes has no column {name!r}; it has label")
        return label

    def images(rows):
        found = torch.zeros(len(rows), 3, data.image_size, data.image_size, dtype=torch.uint8)
        for image, row in zip(found, rows.tolist()):
            image[:, row % data.image_size] = 100 + int(codes[row]) + begin
        return found

    return Table("stripes", label, ("image", "label"), column, images)


@component(settings=Stripes, split=lambda data, name: table(data, 30, 9))
def stripes(data):
    """Pictures of one stripe."""
    return table(data, data.of(Stripes).count, 0)


@dataclass(frozen=True)
class Turns(Group, prefix="turns"):
    step: int = setting(1, "rows that a client gets at once", low=1)


@component(settings=Turns)
def turns(table, data, seed, partitions):
    """Rows in turn."""
    owner = np.arange(len(table)) // data.of(Turns).step % partitions
    return [np.flatnonzero(owner == i) for i in range(partitions)]


@dataclass(frozen=True)
class Offset(Group, prefix="offset"):
    by: float = setting(1.0, "what is added to every number")


class Shifted(Spoilt):
    """Every number is a little larger."""

    settings, refused = Offset, False

    def change(self, arrays, reference):
        return {name: (a + self.faults.of(Offset).by).astype(a.dtype) for name, a in arrays.items()}


@dataclass(frozen=True)
class Wide(Group, prefix="wide"):
    width: int = setting(8, "hidden units", low=1)


@component(settings=Wide)
def wide(classes, image_size, settings=Wide()):
    """One hidden layer."""
    layers = [torch.nn.Linear(3 * image_size**2, settings.width), torch.nn.Tanh(), torch.nn.Linear(settings.width, classes)]
    return torch.nn.Sequential(torch.nn.Flatten(), *layers)


@dataclass(frozen=True)
class Sure(Group, prefix="sure"):
    weight: float = setting(0.1, "weight of the entropy of predictions", low=0.0)


class Entropy(Hook):
    """Adds the mean entropy of the predictions."""

    uses = "example"

    def __init__(self, settings):
        self.weight = settings.weight

    def loss(self, batch, loss):
        logs = batch.logits.log_softmax(1)
        return loss - self.weight * (logs.exp() * logs).sum(1).mean()


sure = Objective("predictions of low entropy", settings=Sure, hooks=(Entropy,))
'''
CHECKS = [
    *((kinds.RULES, name, check) for name in ("middle", "Nearest") for check in test_rules.CHECKS),
    *((kinds.SETS, "stripes", check) for check in test_sets.CHECKS),
    *((kinds.PARTITIONS, "turns", check) for check in test_partitions.CHECKS),
    *((kinds.FAULTS, "Shifted", check) for check in test_faults.CHECKS),
    *((kinds.MODELS, "wide", check) for check in test_models.CHECKS),
    *((kinds.OBJECTIVES, "sure", check) for check in test_objectives.CHECKS),
]
ALL: dict[str, Value] = {
    "robust.rule": f"{MODULE}:middle", "middle.share": 0.3, "data.name": f"{MODULE}:stripes", "stripes.count": 80,
    "stripes.classes": 4, "data.partition": f"{MODULE}:turns", "turns.step": 2, "faults.kind": f"{MODULE}:Shifted",
    "faults.rate": 0.5, "offset.by": 0.25, "model.name": f"{MODULE}:wide", "wide.width": 5, "data.image-size": 8,
    "objective": f"{MODULE}:sure", "sure.weight": 0.2,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"{MODULE}.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("kind", "name", "check"), CHECKS, ids=lambda part: getattr(part, "__name__", str(part)))
def test_contracts_hold_for_them(kind: kinds.Kind[object], name: str, check: object) -> None:
    assert callable(check)
    check(kind, f"{MODULE}:{name}")


def test_each_gets_its_own_settings() -> None:
    config = parse({"method": "fedavg", **ALL})
    data = config.of(Data)
    table = open_table(data)
    assert len(table) == 80 and table.label.names == tuple("abcd")
    assert client_rows(table, data, 0, 3)[1][:4].tolist() == [2, 3, 8, 9]
    assert len(load_shard(parse({**ALL, "data.test": "split"}).of(Data), 0, 0, 1).test_labels) == 30
    assert needs(config.of(Robust)) == 4
    assert {tensor.shape[0] for tensor in build_model(config.of(Model), 4, 8, 0).parameters()} == {5, 4}
    (offset,) = faults_of(ALL).own_settings
    assert vars(offset) == {"by": 0.25} and config.of(type(offset)) == offset


def test_their_settings_are_checked_and_their_cohort_counted() -> None:
    with pytest.raises(SettingError, match=r"stripes.count = 3 is out of range"):
        parse({**ALL, "stripes.count": 3})
    with pytest.raises(SettingError, match=r"stripes.cuont.*did you mean stripes.count"):
        parse({**ALL, "stripes.cuont": 3})
    with pytest.raises(SettingError, match=r"needs 4 clients in a round; there are 3"):
        check_run({"method": "fedavg", **ALL}, 3)
    with pytest.raises(SettingError, match=rf"data set '{MODULE}:strips' cannot be loaded.*no 'strips'"):
        parse({**ALL, "data.name": f"{MODULE}:strips"})


def test_a_folder_of_that_name_goes_before(tmp_path: Path) -> None:
    (tmp_path / f"{MODULE}:stripes").mkdir()
    assert not kinds.SETS.takes(f"{MODULE}:stripes")
    with pytest.raises(SettingError, match="cannot be read"):
        open_table(parse({"data.name": f"{MODULE}:stripes"}).of(Data))


def test_they_run(tmp_path: Path) -> None:
    settings: dict[str, Value] = {**ALL, "num-server-rounds": 2, "local-epochs": 1, "server-threads": 1, "seed": 3}
    outcome = run("fedavg", tmp_path / "run", settings, clients=6)
    assert outcome.results["complete"] and outcome.results["settings"]["robust.rule"] == f"{MODULE}:middle"
    assert all(np.isfinite(array).all() for array in outcome.model.values())

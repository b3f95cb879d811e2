"""Nodes' own data from the command line: a folder for each node, and runs that are checked by their settings alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
import torch

from fedwarm.catalogue import parse
from fedwarm.cli import federation as commands
from fedwarm.data.settings import Data
from fedwarm.federation import preparing, processes
from fedwarm.federation.preparing import Wanted, prepare
from fedwarm.federation.settings import load
from fedwarm.federation.sites import quoted, site_folders
from fedwarm.launch.preflight import check_run
from fedwarm.launch.run import Request, asked
from fedwarm.relevance import idle
from fedwarm.settings.fields import SettingError, Value

OWN: dict[str, Value] = {"method": "fedavg", "data.name": "own"}


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """The check leaves one torch thread; what was before comes back."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def folders(place: Path, *names: str) -> str:
    for name in names:
        (place / name).mkdir(parents=True)
    return str(place)


def test_each_folder_names_a_node_and_is_its_data(tmp_path: Path) -> None:
    from flwr.common.config import parse_config_args

    data = folders(tmp_path / 'da ta="x" here', "site-b", "site-a", ".hidden", "__pycache__")
    made = prepare("mine", Wanted(data=data))
    assert [(node.name, node.partition, node.data) for node in made.nodes] == [
        ("site-a", 0, f"{data}/site-a"), ("site-b", 1, f"{data}/site-b"),
    ]  # fmt: skip
    assert load("mine") == made and prepare("mine", Wanted()).nodes == made.nodes
    assert parse_config_args([processes.node_config(made, made.nodes[1])]) == {
        "site": "site-b", "partition-id": 1, "num-partitions": 2, "data-folder": f"{data}/site-b",
    }  # fmt: skip
    assert commands.usage(made, "mine")[2].endswith("--engine deployment --federation mine -c \"data.name='own'\"")


def test_what_nodes_have_is_changed_only_while_they_are_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = folders(tmp_path / "data", "a", "b")
    made = prepare("other", Wanted(nodes=2))
    own = prepare("other", Wanted(data=data))
    assert [node.port for node in own.nodes] == [node.port for node in made.nodes]
    with pytest.raises(SettingError, match=r"--nodes 3, but .*/data has data for 2 nodes; leave --nodes out"):
        prepare("other", Wanted(nodes=3))
    monkeypatch.setattr(preparing, "living", lambda federation, member: psutil.Process())
    assert prepare("other", Wanted(data=data)).nodes == own.nodes
    folders(tmp_path / "data", "c")
    assert prepare("other", Wanted()).nodes == own.nodes
    with pytest.raises(SettingError, match="`fedwarm federation down --federation other` comes first"):
        prepare("other", Wanted(data=data))


def test_folders_that_cannot_be_nodes_are_refused(tmp_path: Path) -> None:
    refusals = [
        (tmp_path / "no", "there is no such folder"),
        (Path(folders(tmp_path / "empty")), "there is no such folder"),
        (Path(folders(tmp_path / "bare", ".git")), "holds no folders; put the data of each node in a folder"),
        (
            Path(folders(tmp_path / "odd", "ward 3")),
            "each folder there names a node, and 'ward 3' is not a name for a federation; use 1 to 32 letters",
        ),
        (Path(folders(tmp_path / "taken", "superlink")), "the folder 'superlink' cannot name a node"),
        (Path(folders(tmp_path / "o'neill", "a")), "cannot stand in a node's configuration"),
    ]
    for place, said in refusals:
        with pytest.raises(SettingError, match=said):
            site_folders(str(place))
    with pytest.raises(SettingError, match="cannot stand"):
        quoted("a\nb")


def test_data_of_the_nodes_are_not_looked_for_where_the_command_runs() -> None:
    """Whoever opened the data set `own` would be refused."""
    for settings in ({}, {"augment": "gen-fedsd"}, {"data.classes": "one,two"}, {"method": "warmfed", "data.classes": "one,two"}):
        config, clients = check_run({**OWN, **settings}, 3, real=True)
        assert config.of(Data).own and clients == 3


@pytest.mark.parametrize(
    ("settings", "real", "said"),
    [
        ({}, False, "data.name = 'own' is what each real node holds .* run with --engine deployment, or take another data.name"),
        ({"data.test": "central"}, True, "data.test = 'central' needs data at the server"),
        ({"model.name": "lenet5", "data.image-size": 8}, True, "lenet5 needs images of at least 16 pixels"),
        ({"robust.rule": "krum", "robust.byzantine": 2}, True, "robust.rule = 'krum' needs"),
        ({"augment": "gen-fedsd", "diffusion.foundation": "/no/such"}, True, "/no/such"),
        ({"augment": "gen-fedsd", "data.classes": "lynx,owl"}, True, "on none of the classes lynx, owl: it would draw noise"),
    ],
)
def test_what_settings_alone_say_is_refused_before_the_run(settings: dict[str, Value], real: bool, said: str) -> None:
    with pytest.raises(SettingError, match=said):
        check_run({**OWN, **settings}, 3, real)


def test_a_folder_of_that_name_is_not_taken_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folders(tmp_path / "here", "own"))
    assert asked(Request("fedavg", run_config=("data.name='own'",)))["data.name"] == "own"
    assert asked(Request("fedavg", run_config=("data.name='./own'",)))["data.name"] == str(tmp_path / "here" / "own")


def test_how_data_are_dealt_means_nothing_where_they_are_the_nodes_own() -> None:
    given = ["data.partition", "data.alpha", "data.classes", "data.bits", "data.label-column"]
    dirichlet: dict[str, Value] = {"method": "fedavg", "data.partition": "dirichlet"}
    assert idle(given, parse({**OWN, **dirichlet}).flat(), "fedavg", True) == ["data.alpha", "data.partition"]
    assert idle(given, parse(dirichlet).flat(), "fedavg") == ["data.bits", "data.classes", "data.label-column"]

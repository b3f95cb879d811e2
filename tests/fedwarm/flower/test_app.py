"""Flower apps as folders: reading, overriding, loading."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from flwr.clientapp import ClientApp
from flwr.common.config import parse_config_args
from flwr.serverapp import ServerApp

from fedwarm.flower import app as flower_app
from fedwarm.flower.app import load, merged, read_app
from fedwarm.settings.fields import SettingError
from fedwarm.settings.text import parse_overrides

PYPROJECT = """
[project]
name = "tiny"
version = "1.0.0"
[tool.flwr.app.components]
serverapp = "tiny_server:app"
clientapp = "tiny_client:app"
[tool.flwr.app.config]
rounds = 3
name = "a b"
[tool.flwr.app.config.data]
alpha = 0.5
shuffle = true
"""


@pytest.fixture(autouse=True)
def _leave_no_app_behind() -> Iterator[None]:
    yield
    flower_app.enter(None)


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return folder


def test_reads_components_and_flat_config(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    app = read_app(tmp_path)
    assert (app.server, app.client, app.folder) == ("tiny_server:app", "tiny_client:app", tmp_path.resolve())
    assert app.config == {"rounds": 3, "name": "a b", "data.alpha": 0.5, "data.shuffle": True}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no pyproject.toml"),
        ("[project]\nname = 'x'", "must name a serverapp and a clientapp"),
        ("[tool.flwr.app.components]\nserverapp = 'a:b'", "must name a serverapp and a clientapp"),
        ("tool = 3", "must name a serverapp and a clientapp"),
        ("[tool", "is not valid TOML"),
        (PYPROJECT + "seeds = [1, 2]", r"data.seeds = \[1, 2\]"),
    ],
)
def test_a_folder_that_is_no_app_is_refused_in_one_line(tmp_path: Path, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(SettingError, match=said) as error:
        read_app(tmp_path)
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        """key=1 key2="a b" x=1.5 flag=true""",
        "a.b.c=1e-3 a.b.d='single quoted' neg=-4",
        'empty="" url="http://x/?q=1" path="x.toml"',
        "table={inner=3}",
        "",
    ],
)
def test_overrides_are_read_as_flower_reads_them(text: str) -> None:
    assert parse_overrides([text]) == parse_config_args([text])


def test_several_texts_and_files_are_merged_key_by_key(tmp_path: Path) -> None:
    file = tmp_path / "more.toml"
    file.write_text("x = 5\n[data]\nalpha = 0.1\n")
    assert parse_overrides(["data.alpha=1.0 data.name='d'", str(file), "y=2", "x=6"]) == {
        "data.alpha": 0.1,
        "data.name": "d",
        "x": 6,
        "y": 2,
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rounds 3", "cannot read 'rounds'"),
        ("rounds = 3", "cannot read 'rounds'"),
        ("name=warmfed", "name='warmfed'"),
        ("a=1 oops b=2", "cannot read 'oops'"),
        ("a=[1,2]", r"a = \[1, 2\]"),
        ("a=2020-01-01", "must be a text, a number"),
        ("nowhere.toml", "cannot read nowhere.toml"),
    ],
)
def test_bad_overrides_are_refused(text: str, said: str) -> None:
    with pytest.raises(SettingError, match=said):
        parse_overrides([text])


def test_an_override_of_an_unknown_key_names_the_near_ones() -> None:
    config = {"num-server-rounds": 3, "lr": 0.1}
    assert merged(config, {"lr": 1.0}) == {"num-server-rounds": 3, "lr": 1.0}
    with pytest.raises(SettingError, match=r"'num-rounds' \(did you mean num-server-rounds\?\)"):
        merged(config, {"num-rounds": 3})


def test_loads_nested_attributes_from_the_folder(tmp_path: Path) -> None:
    server = "from flwr.serverapp import ServerApp\nclass Holder:\n    app = ServerApp()\n"
    write(tmp_path, nested_server=server)
    assert isinstance(load("nested_server:Holder.app", tmp_path), ServerApp)
    assert sys.path[0] == str(tmp_path.resolve())


def test_two_apps_with_the_same_module_names_each_get_their_own(tmp_path: Path) -> None:
    client = "from flwr.clientapp import ClientApp\nfrom same_task import NAME\napp = ClientApp()\napp.name = NAME\n"
    for name in ("one", "two"):
        write(tmp_path / name, same_client=client, same_task=f"NAME = {name!r}")
    found = [load("same_client:app", tmp_path / name) for name in ("one", "two", "one")]
    assert [app.name for app in found] == ["one", "two", "one"]  # type: ignore[union-attr]
    assert load("same_client:app", tmp_path / "one") is found[2]
    flower_app.enter(None)
    assert "same_task" not in sys.modules
    assert str(tmp_path / "one") not in sys.path


def test_a_module_name_that_is_taken_is_refused_not_confused(tmp_path: Path) -> None:
    write(tmp_path, pytest="from flwr.clientapp import ClientApp\napp = ClientApp()\n")
    with pytest.raises(SettingError, match="the name 'pytest' is taken by"):
        load("pytest:app", tmp_path)


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("client_app", "must read module:attribute"),
        ("no_such_module_here:app", "No module named 'no_such_module_here'"),
        ("wants_more:app", "No module named 'not_installed_anywhere'"),
        ("good_client:nothing", "has no 'nothing'"),
        ("good_client:number", "is int; it must be a ServerApp or a ClientApp"),
    ],
)
def test_what_cannot_be_loaded_is_named(tmp_path: Path, reference: str, said: str) -> None:
    good = "from flwr.clientapp import ClientApp\napp = ClientApp()\nnumber = 3\n"
    write(tmp_path, good_client=good, wants_more="import not_installed_anywhere")
    assert isinstance(load("good_client:app", tmp_path), ClientApp)
    with pytest.raises(SettingError, match=said):
        load(reference, tmp_path)

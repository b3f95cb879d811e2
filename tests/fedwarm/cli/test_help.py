"""The command line's help: whole at any width, plain, and quick."""

from __future__ import annotations

import re

import click
import pytest
import typer

from fedwarm.cli import app as cli
from fedwarm.cli.help import help_text
from fedwarm.core.text import cells
from fedwarm.record.versions import versions
from tests.fedwarm.cli.test_app import call


def commands() -> dict[str, click.Command]:
    """Every command by its whole name."""
    found: dict[str, click.Command] = {}

    def walk(name: str, command: click.Command) -> None:
        found[name] = command
        for below, each in getattr(command, "commands", {}).items():
            walk(f"{name} {below}", each)

    walk("fedwarm", typer.main.get_command(cli.app))
    return found


def words(text: str) -> str:
    return "".join(text.split())


@pytest.mark.parametrize("width", [100, 80, 40, 20])
def test_help_cuts_nothing(width: int) -> None:
    for name, command in commands().items():
        check_whole(name, command, width)


def check_whole(name: str, command: click.Command, width: int) -> None:
    text = help_text(command, click.Context(command, info_name=name), width)
    assert max(map(cells, text.split("\n"))) <= width
    whole = words(text)
    assert words(command.help or "") in whole or not isinstance(command, click.Group)
    for parameter in command.params:
        told = getattr(parameter, "help", None)
        assert words(told or "") in whole and (told or isinstance(parameter, click.Argument))
        assert all(option in whole for option in parameter.opts if option.startswith("-"))
    for below, each in getattr(command, "commands", {}).items():
        assert below in whole and words((each.help or "").split("\n\n")[0]) in whole
    cut = re.search(r"\x1b|…|\.\.\.$|\\\[|╭", text.replace("RUNS...", "").replace("[ARGS]...", ""), re.MULTILINE)
    assert cut is None


@pytest.mark.parametrize(("name", "told"), [("run", "a method, see"), ("show", "run folder"), ("settings", "a group such as")])
def test_arguments_are_explained(
    name: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert call(monkeypatch, name, "--help") == 0
    arguments = capsys.readouterr().out.split("Arguments:")[1].split("Options:")[0]
    assert told in arguments


def test_the_version_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "--version") == 0
    found = versions()
    expected = f"fedwarm {found['fedwarm']} (flwr {found['flwr']}, torch {found['torch']}, python {found['python']})\n"
    assert capsys.readouterr().out == expected

"""The command line's help: plain text without frames, colours or markup, that cuts nothing at any width."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_type_hints

import click
import typer
from typer.core import TyperCommand, TyperGroup
from typer.models import ArgumentInfo

from fedwarm.core.terminal import columns
from fedwarm.core.text import definitions, paragraph

WIDEST = 100
USUAL = 80


def help_text(command: click.Command, context: click.Context, width: int) -> str:
    """Usage, what the command does, and every argument, option and command with its whole meaning."""
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    parts = [paragraph(f"Usage: {usage}", width)]
    told = [" ".join(each.split()) for each in (command.help or "").split("\n\n")]
    parts.append("\n\n".join(paragraph(each, width, 2) for each in told if each))
    arguments = [_record(p, context) for p in command.get_params(context) if isinstance(p, click.Argument)]
    options = [_record(p, context) for p in command.get_params(context) if isinstance(p, click.Option)]
    sections = {"Arguments": arguments, "Options": options, "Commands": _commands(command, context)}
    parts += [f"{title}:\n{definitions(rows, width, 2)}" for title, rows in sections.items() if rows]
    return "\n\n".join(part for part in parts if part) + "\n"


def _record(parameter: click.Parameter, context: click.Context) -> tuple[str, str]:
    """Name and meaning; typer escapes brackets for a markup that is not used here."""
    name, text = parameter.get_help_record(context) or ("", "")
    text, own = text.replace("\\[", "["), _own(parameter, context)
    return name, f"{own}  {text}".rstrip() if own and own not in text else text


def _own(parameter: click.Parameter, context: click.Context) -> str:
    """The help that the command's function gives to an argument; some versions of click and typer together lose it."""
    if not isinstance(parameter, click.Argument):
        return ""
    declared = get_type_hints(context.command.callback, include_extras=True).get(str(parameter.name))
    found = [info.help for info in getattr(declared, "__metadata__", ()) if isinstance(info, ArgumentInfo)]
    return (found[0] if found else None) or ""


def _commands(command: click.Command, context: click.Context) -> list[tuple[str, str]]:
    """Each command with the first paragraph of its help."""
    if not isinstance(command, click.Group):
        return []
    found = [(name, command.get_command(context, name)) for name in command.list_commands(context)]
    return [(name, " ".join((each.help or "").split("\n\n")[0].split())) for name, each in found if each and not each.hidden]


def _format(command: click.Command, context: click.Context, formatter: click.HelpFormatter) -> None:
    formatter.write(help_text(command, context, min(columns() or USUAL, WIDEST)))


class Command(TyperCommand):
    """A command whose help is `help_text`."""

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help."""
        _format(self, ctx, formatter)


class Group(TyperGroup):
    """A group of commands whose help is `help_text`."""

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help."""
        _format(self, ctx, formatter)


class App(typer.Typer):
    """A typer application all of whose commands have this help, and whose errors are left to the caller."""

    def __init__(self, text: str) -> None:
        quiet: Any = {"add_completion": False, "pretty_exceptions_enable": False, "rich_markup_mode": None}
        super().__init__(help=text, cls=Group, no_args_is_help=True, **quiet)

    def command(self, name: str | None = None, **options: Any) -> Callable[..., Any]:
        """A command of this application."""
        return super().command(name, **{"cls": Command, **options})

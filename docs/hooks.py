"""Pages of the site that are made when it is built: the reference, out of the code, and files that lie outside of `docs/`."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
OUTSIDE = {"benchmarks.md": "benchmarks/RESULTS.md", "changelog.md": "CHANGELOG.md", "docker.md": "docker/README.md"}
LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)(#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that no file of `docs/` holds."""
    from mkdocs.structure.files import File

    for name, make in made().items():
        files.append(File.generated(config, name, content=make()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to files outside of `docs/` lead to their pages on the site."""
    return inside(markdown, page.file.src_uri)


def made() -> dict[str, Callable[[], str]]:
    """The pages that are made, by their name in the site."""
    return {
        "reference/settings.md": settings_page,
        "reference/components.md": components_page,
        "reference/commands.md": commands_page,
        "tutorials/notebook.md": notebook_page,
        **{name: lambda path=path: (ROOT / path).read_text(encoding="utf-8") for name, path in OUTSIDE.items()},
    }


def inside(markdown: str, name: str) -> str:
    """A page whose links are relative to the file that it was written in, with links relative to its place in the site."""
    source = OUTSIDE.get(name, f"docs/{name}")
    sites = {path: page for page, path in OUTSIDE.items()}

    def moved(link: re.Match[str]) -> str:
        target = os.path.normpath(os.path.join(os.path.dirname(source), link[1]))
        place = sites.get(target) or (target.removeprefix("docs/") if target.startswith("docs/") else None)
        if place is None:
            return link[0]
        return f"]({os.path.relpath(place, os.path.dirname(name) or '.')}{link[2] or ''})"

    return LINK.sub(moved, markdown)


def escaped(text: str) -> str:
    """A text in a cell of a table: no cell or tag may end in it."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def table(heads: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines) + "\n"


def settings_page() -> str:
    """Every setting by group, as `fedwarm settings` prints them."""
    from fedwarm.catalogue import all_groups
    from fedwarm.settings.fields import allowed, keys
    from fedwarm.settings.text import literal

    parts = [
        "# Settings\n\nEvery setting with its default, its range and its meaning, as `fedwarm settings` prints them. On the "
        "command line they are given by `-c \"data.alpha=0.1 model.name='resnet8'\"`, from Python as a dictionary: "
        '`fedwarm.run("fedavg", {"data.alpha": 0.1})`.\n'
    ]
    for group in all_groups():
        rows = (
            (f"`{key}`", f"`{literal(f.default)}`", escaped(allowed(f)), escaped(f.metadata["text"]))
            for key, _, f in keys((group,))
        )
        title = f"`{group.prefix}.*`" if group.prefix else "Of every run"
        about = " ".join((group.__doc__ or "").partition("\n\n")[0].split())
        parts.append(f"## {title}\n\n{escaped(about)}\n\n{table(('setting', 'default', 'range', 'meaning'), rows)}")
    return "\n".join(parts)


def components_page() -> str:
    """Every component by kind, with what it says of itself."""
    from fedwarm.settings.kinds import KINDS
    from fedwarm.settings.registry import settings_of, summary

    parts = ["# Components by kind\n\nWhat a run can be made of; [Components](../components.md) says how to add your own.\n"]
    for kind in KINDS.values():
        found = [(name, kind.load(name)) for name in kind.own()]
        rows = (
            (f"`{name}`", escaped(summary(each)), ", ".join(f"`{group.prefix}.*`" for group in settings_of(each)) or "–")
            for name, each in found
        )
        chosen = f"Chosen by the setting `{kind.key}`." if kind.key else "All of them take part in every run." * kind.every
        title = kind.name[:1].upper() + kind.name[1:]
        parts.append(f"## {title}\n\n{chosen}\n\n{table(('name', 'what it is', 'settings'), rows)}")
    return "\n".join(parts)


def commands_page() -> str:
    """The help of every command."""
    import typer

    from fedwarm.cli.app import app

    parts = ["# Commands\n\nThe help of every command, as `--help` prints it.\n"]
    for path, command in commands(typer.main.get_command(app), ("fedwarm",)):
        import click

        text = command.get_help(click.Context(command, info_name=" ".join(path), max_content_width=110))
        parts.append(f"## `{' '.join(path)}`\n\n```text\n{text.strip()}\n```\n")
    return "\n".join(parts)


def commands(command: object, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], object]]:
    """Every command that does something, with its path."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield path, command
        return
    for name in inner:
        yield from commands(inner[name], (*path, name))


def notebook_page() -> str:
    """The notebook's cells: texts as they are, code as code blocks."""
    book = json.loads((ROOT / "docs/tutorials/notebook.ipynb").read_text(encoding="utf-8"))
    parts = []
    for cell in book["cells"]:
        text = "".join(cell["source"]).strip()
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    return "\n\n".join(parts) + "\n"

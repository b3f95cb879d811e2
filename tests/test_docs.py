"""The documents: links lead somewhere, code compiles, commands and settings exist, tutorials and the notebook run."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shlex
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import typer
import yaml

from fedwarm.catalogue import all_groups
from fedwarm.cli.app import app
from fedwarm.launch.request import DEFAULTS_VARIABLE
from fedwarm.settings.fields import checked, keys
from fedwarm.settings.kinds import METHODS
from fedwarm.settings.text import parse_overrides, read_toml

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "docker" / "README.md"]
NOTEBOOK = ROOT / "docs" / "tutorials" / "notebook.ipynb"
LINK = re.compile(r"(?<!`)\[[^\]]*\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NAME = re.compile(r"# (\S+\.\w+)\n")
SMALL = "data.max-examples=16 data.image-size=16 local-epochs=1 learning-rate=0.05"


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as the site makes them."""
    heads = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", head).strip().lower()) for head in heads}


@lru_cache(maxsize=1)
def hooks() -> ModuleType:
    """What makes the site's reference."""
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    made = {ROOT / "docs" / name: ROOT / place for name, place in hooks().OUTSIDE.items()}
    made |= dict.fromkeys((ROOT / "docs" / name for name in hooks().made()), path)
    for target, anchor in LINK.findall(path.read_text()):
        place = (path.parent / target).resolve() if target else path
        assert place.exists() or place in made, f"{name_of(path)}: {target}"
        place = place if place.exists() else made[place]
        assert not anchor or anchor in anchors(place), f"{name_of(path)}: {target}#{anchor}"


def test_every_page_is_in_the_navigation() -> None:
    """And nothing else is; pages that are made count."""
    text = re.sub(r"!!\S+", "", (ROOT / "mkdocs.yml").read_text())

    def pages(node: Any) -> Iterator[str]:
        if isinstance(node, str):
            yield node
        else:
            for inner in node.values() if isinstance(node, dict) else node:
                yield from pages(inner)

    shown = [*pages(yaml.safe_load(text)["nav"])]
    there = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert sorted(shown) == sorted(there | {*hooks().made()})


def test_the_reference_is_complete() -> None:
    """Every setting, component and command has its row; every object that is shown by its docstring is there."""
    pages = {name: make() for name, make in hooks().made().items() if name.startswith("reference/")}
    assert all(f"| `{key}` |" in pages["reference/settings.md"] for key, _, _ in keys(all_groups()))
    assert all(f"| `{method}` |" in pages["reference/components.md"] for method in METHODS.own())
    assert "## `fedwarm run`" in pages["reference/commands.md"] and "--keep-going" in pages["reference/commands.md"]
    for path in (ROOT / "docs" / "reference").glob("*.md"):
        for name in re.findall(r"^::: (\S+)$", path.read_text(), re.MULTILINE):
            module, _, attribute = name.rpartition(".")
            found = hasattr(importlib.import_module(module), attribute) or importlib.util.find_spec(name) is not None
            assert found, f"{name_of(path)}: {name}"


def test_every_method_has_its_paper() -> None:
    papers = (ROOT / "docs" / "papers.md").read_text()
    assert not [name for name in METHODS.own() if f"`{name}`" not in papers]


def blocks(path: Path, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(path.read_text()) if kind == language]


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_python_blocks_compile(path: Path) -> None:
    for text in blocks(path, "python"):
        compile(text, name_of(path), "exec")


def commands(path: Path) -> list[list[str]]:
    """The lines of a page that call fedwarm, as words."""
    text = path.read_text().replace("\\\n", " ")
    lines = [line.strip().removeprefix("$ ") for line in text.splitlines() if line.startswith(("    ", "$ "))]
    texts = [part for line in lines for part in re.split(r" && |; ", line) if part.startswith("fedwarm ")]
    return [shlex.split(text, comments=True)[1:] for text in texts]


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_commands_and_their_settings_exist(path: Path) -> None:
    rows = {key: f for key, _, f in keys(all_groups())}
    for words in commands(path):
        command: Any = typer.main.get_command(app)
        line, rest = " ".join(words), [word for word in words if word != ".."]
        while hasattr(command, "commands") and rest and rest[0] in command.commands:
            command = command.commands[rest.pop(0)]
        assert not hasattr(command, "commands") or not rest or rest[0].startswith("--"), f"{name_of(path)}: no command {line!r}"
        if hasattr(command, "commands"):
            continue
        context = command.make_context("fedwarm", rest, resilient_parsing=False)
        method = str(context.params.get("method") or "")
        for key, value in parse_overrides(context.params.get("run_config") or []).items():
            assert key in rows or ":" in method, f"{name_of(path)}: no setting {key!r} in {line!r}"
            if key in rows:
                checked(key, value, rows[key])


def settings_named(path: Path) -> set[str]:
    """What stands in a page as code and looks like a setting with its value, `key=value` or `key = value`."""
    return set(re.findall(r"`([a-z][a-z-]*\.[a-z][a-z.-]*) ?= ?[^`]*`", path.read_text()))


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_settings_in_the_text_exist(path: Path) -> None:
    known, foreign = {key for key, _, _ in keys(all_groups())}, ("smoothed.", "lazy.", "top-k.", "result.", "run.")
    assert not {key for key in settings_named(path) if key not in known and not key.startswith(foreign)}


# What runs


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to work in, where runs are small and stay in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(DEFAULTS_VARIABLE, SMALL)
    monkeypatch.delenv("FEDWARM_RUNS", raising=False)
    monkeypatch.setattr("fedwarm.engines.local.run.workers_for", lambda *given: 1)
    yield tmp_path
    for name in [
        name for name, module in sys.modules.items() if str(getattr(module, "__file__", None)).startswith(str(tmp_path))
    ]:
        del sys.modules[name]


def told(page: str) -> Path:
    return ROOT / "docs" / page


def write_files(path: Path, folder: Path) -> None:
    """The blocks of a page that begin with a file's name, as files."""
    for _, text in BLOCK.findall(path.read_text()):
        if found := NAME.match(text):
            (folder / found[1]).write_text(text)


def call(words: list[str], *more: str) -> None:
    app([*words, *more], standalone_mode=False)


def execute(text: str, space: dict[str, Any], name: str) -> Any:
    """Run a text, and give the value of its last expression, as a notebook does."""
    tree = ast.parse(text)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), space)
    return None if last is None else eval(compile(ast.Expression(last.value), name, "eval"), space)


def test_getting_started_runs(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = told("start.md")
    (program,) = blocks(path, "python")
    execute(program.replace("rounds=3", "rounds=1"), {"__name__": "__main__"}, "start")
    assert "bytes uploaded" in capsys.readouterr().out and (small / "accuracy.png").is_file()


def test_the_engineer_s_tutorial_runs(small: Path) -> None:
    path, space = told("tutorials/own.md"), dict[str, Any]()
    write_files(path, small)
    data, *_, use = blocks(path, "python")
    execute(data, space, "data")
    for name in ("runs/fruit", "runs/table"):
        (run,) = [words for words in commands(path) if name in words and words[:2] == ["run", "fedavg"]]
        call(run, "--rounds", "1")
    execute(use, space, "use")
    assert space["probabilities"].shape == (1, 2) and space["result"].classes == ["apple", "pear"]
    table = space["fedwarm"].load("runs/table")
    assert table.classes == ["malignant", "benign"] and table.predict(torch.zeros(2, 30)).shape == (2,)


def test_the_author_s_tutorial_runs(small: Path) -> None:
    path = told("tutorials/method.md")
    write_files(path, small)
    ours = [words for words in commands(path) if ":COMPONENT" in words[1]]
    for number, words in enumerate(ours):
        call([*words[:-1], "1"], "--clients", "2", "--out", f"runs/{number}")
    results = [json.loads((small / "runs" / str(n) / "results.json").read_text()) for n in range(2)]
    assert [r["method"] for r in results] == ["smoothed:COMPONENT", "lazy:COMPONENT"] and all(r["complete"] for r in results)


def test_the_researcher_s_sweep_is_one(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole file is read and checked; two of its runs are run, and the page's own lines read them."""
    from fedwarm.launch.sweep_file import jobs, read_sweep

    path = told("tutorials/compare.md")
    write_files(path, small)
    assert len(jobs(read_sweep(small / "sweep.toml"), "sweep.toml")) == (2 + 4 + 2) * 3
    table = read_toml(small / "sweep.toml")
    text = (small / "sweep.toml").read_text().replace(str(table["methods"]).replace("'", '"'), '["fedavg"]')
    text = (
        text.replace("[1, 2, 3]", "[1]")
        .replace("clients = 10", "clients = 2")
        .replace("num-server-rounds = 20", "num-server-rounds = 1")
    )
    (small / "sweep.toml").write_text(
        text.replace("fedprox.mu = [0.01, 0.1]", "").replace("local-epochs = 2", "local-epochs = 1")
    )
    (words,) = [words for words in commands(path) if "--sweep" in words]
    call(words)
    (program,) = blocks(path, "python")
    capsys.readouterr()
    execute(program, {}, "compare")
    assert capsys.readouterr().out.count("fedavg 1 0.") == 2


def test_a_flower_app_of_one_s_own_runs_under_our_strategy(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The guide's three files, as they stand there; a client without one of them is left out, by the reason."""
    from fedwarm.engines.local.run import run_local
    from fedwarm.flower.app import FlowerApp

    write_files(told("flower.md"), small)
    run_local(FlowerApp("server_app:app", "client_app:app", {}, small), {}, clients=2, workers=1)
    out = capsys.readouterr().out
    assert "{1: {'accuracy': 0." in out and "3: {'accuracy': 0." in out and "1.weight" in out


def test_the_notebook_runs(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cells in their order, in one namespace, as a kernel runs them; no kernel is needed."""
    book, module = json.loads(NOTEBOOK.read_text()), ModuleType("cells")
    monkeypatch.setitem(sys.modules, "cells", module)
    values = [
        execute("".join(cell["source"]), vars(module), f"cell {number}")
        for number, cell in enumerate(book["cells"])
        if cell["cell_type"] == "code"
    ]
    assert not [cell for cell in book["cells"] if cell.get("outputs") or cell.get("execution_count")]
    assert values[-1] is True and {*values[-2]} == {"fedavg", "fedprox", "scaffold"}
    assert [len(each) for each in values if isinstance(each, tuple)] == [2]

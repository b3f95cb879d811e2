"""The import rules and the house style, held on the source itself."""

from __future__ import annotations

import ast
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("fedwarm", "strategies", "clients")
SHIMS = {ROOT / "fedwarm" / "strategies.py", ROOT / "fedwarm" / "clients.py"}
FLOWER_ALLOWED = ("strategies", "clients", *(f"fedwarm/{room}" for room in ("flower", "rounds", "engines", "federation", "node")))


def sources(*packages: str) -> list[Path]:
    return [p for package in packages for p in sorted((ROOT / package).rglob("*.py")) if p not in SHIMS]


def imports(path: Path) -> list[tuple[int, str]]:
    """(relative level, module) of every import in the file, inside functions too."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module or ""))
    return found


def roots(path: Path) -> set[str]:
    return {module.split(".")[0] for level, module in imports(path) if level == 0}


def test_fedwarm_knows_neither_strategies_nor_clients() -> None:
    for path in sources("fedwarm"):
        assert not roots(path) & {"strategies", "clients"}, path


def test_the_two_sides_never_import_each_other() -> None:
    for path in sources("strategies"):
        assert "clients" not in roots(path), path
    for path in sources("clients"):
        assert "strategies" not in roots(path), path


def test_sides_import_their_siblings_relatively() -> None:
    for package in ("strategies", "clients"):
        for path in sources(package):
            assert package not in roots(path), path
            assert not [m for _, m in imports(path) if m.startswith(("fedwarm.strategies", "fedwarm.clients"))], path


def test_flower_and_ray_appear_only_where_they_may() -> None:
    for path in sources(*PACKAGES):
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith(FLOWER_ALLOWED):
            assert not roots(path) & {"flwr", "ray"}, name


def test_no_method_imports_another() -> None:
    for path in sources("fedwarm/methods"):
        for level, module in imports(path):
            assert level == 0, path
            assert not (module.startswith("fedwarm.methods.") and path.name != "__init__.py"), path


def test_both_sides_carry_the_same_stems() -> None:
    from fedwarm.settings.kinds import METHODS

    for package in ("strategies", "clients"):
        assert set(METHODS) <= {p.stem for p in (ROOT / package).glob("*.py")}


def test_tables_of_names_import_neither_torch_nor_flower() -> None:
    for package in ("strategies", "clients"):
        assert not roots(ROOT / package / "__init__.py") & {"torch", "flwr"}


def functions(path: Path) -> list[tuple[str, int]]:
    """(name, lines without the docstring) of every function."""
    out = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            doc = ast.get_docstring(node, clean=False)
            first = node.body[0]
            skipped = (first.end_lineno or 0) - first.lineno + 1 if doc is not None else 0
            out.append((node.name, (node.end_lineno or 0) - node.lineno + 1 - skipped))
    return out


def test_files_and_functions_stay_small() -> None:
    lengths = {p: len(p.read_text().splitlines()) for p in sources(*PACKAGES)}
    assert not {p: n for p, n in lengths.items() if n > 300}
    sizes = {(p.name, name): n for p in lengths for name, n in functions(p)}
    assert not {key: n for key, n in sizes.items() if n > 60}
    assert statistics.median(sizes.values()) <= 10


@pytest.mark.parametrize("path", sources(*PACKAGES), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_every_module_says_what_it_does(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), path


def test_no_pickle_is_read() -> None:
    for path in sources(*PACKAGES):
        assert "torch.load(" not in path.read_text(), path
        assert "allow_pickle=True" not in path.read_text(), path

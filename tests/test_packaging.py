"""The wheel: one top-level name, every method in it, the foundation's weights with it; and the bundle for Flower."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEMPLATES = [ROOT / "fedwarm" / room / "templates" for room in ("report", "federation")]
FAB_BYTES_AT_MOST = 10_000_000  # Flower's own limit
LOAD = """
import fedwarm.strategies, fedwarm.clients
from fedwarm.settings.kinds import METHODS
from fedwarm.diffusion.foundation import asset_folder
for name in METHODS:
    print(fedwarm.strategies.strategy_class(name).__module__, fedwarm.clients.trainer_class(name).__module__)
print(fedwarm.strategies.WarmFed, asset_folder("glyph"))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT, check=True)
    (found,) = folder.glob("*.whl")
    return found


def test_wheel_has_one_top_level_name_and_the_weights(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.split("/")[0] for n in names if ".dist-info/" not in n} == {"fedwarm"}
    assert "fedwarm/strategies/warmfed.py" in names and "fedwarm/clients/warmfed.py" in names
    assert not {"fedwarm/strategies.py", "fedwarm/clients.py", "fedwarm/checkout.py"} & {*names}
    templates = {path.relative_to(ROOT).as_posix() for room in TEMPLATES for path in room.iterdir()}
    assert {n for n in names if "/templates/" in n} == templates
    assert any(n.startswith("fedwarm/assets/glyph/unet/") and n.endswith(".safetensors") for n in names)


def test_nothing_that_a_bundle_runs_imports_the_report_whose_templates_it_lacks() -> None:
    waiting = [path for room in ("strategies", "clients", "fedwarm/rounds") for path in (ROOT / room).rglob("*.py")]
    seen: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path not in seen:
            seen.add(path)
            waiting += imported(path)
    assert len(seen) > 100 and not [path for path in seen if {"report", "launch", "cli"} & {*path.relative_to(ROOT).parts}]


def imported(path: Path) -> list[Path]:
    """The project's files that a file imports, inside functions, too."""
    here, names = path.relative_to(ROOT).with_suffix("").parts, []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*here[: -node.level], *filter(None, [node.module])]) if node.level else str(node.module)
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    places = [ROOT.joinpath(*name.split(".")) for name in names]
    return [file for place in places for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()]


@pytest.mark.long
def test_every_method_loads_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    target, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    zipfile.ZipFile(wheel).extractall(target)
    done = subprocess.run(
        [sys.executable, "-c", LOAD],
        cwd=empty,
        env={**os.environ, "PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(target / "fedwarm" / "assets" / "glyph") in done.stdout
    assert "fedwarm.strategies.warmfed fedwarm.clients.warmfed" in done.stdout


def test_the_public_name_is_one_package_in_the_checkout() -> None:
    import clients
    import fedwarm.clients
    import fedwarm.strategies
    import strategies

    assert fedwarm.strategies is strategies
    assert fedwarm.clients is clients
    assert fedwarm.strategies.FedAvg is strategies.FedAvg


@pytest.mark.long
@pytest.mark.parametrize("first", ["", "fedwarm."])
def test_a_file_of_the_checkout_is_one_module_under_both_names(first: str) -> None:
    """A second copy would have classes, caches and exceptions of its own, and which one is patched or caught would be chance."""
    script = f"""
import sys
from importlib import import_module, util
for name in ("clients.client_app", "strategies.server_app", "clients.scaffold", "strategies.fedavg"):
    import_module("{first}" + name)
import clients.client_app, fedwarm.clients.client_app, fedwarm.strategies.server_app, strategies.server_app
files = [getattr(module, "__file__", None) for name, module in sys.modules.items() if name.startswith(("clients", "strategies"))]
assert len(files) == len(set(files)) > 4, files
for name, module in list(sys.modules.items()):
    if name.startswith(("clients.", "strategies.")):
        assert sys.modules.get("fedwarm." + name, module) is module and module.__name__ == module.__spec__.name == name, name
assert import_module("fedwarm.clients.warmfed") is import_module("clients.warmfed")
assert util.find_spec("fedwarm.strategies.nothing") is None
"""
    subprocess.run([sys.executable, "-W", "error::ImportWarning", "-c", script], cwd=ROOT, check=True)


def test_names_are_imported_when_asked_for() -> None:
    script = "import sys, fedwarm.strategies, fedwarm.clients; print(sorted({'torch', 'flwr', 'ray'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")
def test_flower_builds_the_bundle(tmp_path: Path) -> None:
    """Its bytes are the code's, as Flower does not compress, and a tenth for the archive: no picture and no weights get in."""
    from flwr.cli.build import build_fab_from_disk

    data = build_fab_from_disk(ROOT)
    code = sum(path.stat().st_size for room in ("fedwarm", "strategies", "clients") for path in (ROOT / room).rglob("*.py"))
    assert len(data) < 1.1 * code < FAB_BYTES_AT_MOST / 3
    path = tmp_path / "app.fab"
    path.write_bytes(data)
    names = zipfile.ZipFile(path).namelist()
    assert "strategies/server_app.py" in names and "clients/client_app.py" in names and "fedwarm/flower/wire.py" in names
    assert not [n for n in names if n.startswith(("tests/", "benchmarks/", ".venv"))]
    assert {Path(n).suffix for n in names if n.startswith(("fedwarm/", "strategies/", "clients/"))} == {".py"}

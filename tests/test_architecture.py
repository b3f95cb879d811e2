"""The import rules and the house style, held on the source itself."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path

from fedwarm.settings.kinds import KINDS, METHODS

ROOT = Path(__file__).parents[1]
PACKAGES = ("fedwarm", "strategies", "clients")
SHIMS = {ROOT / "fedwarm" / "strategies.py", ROOT / "fedwarm" / "clients.py", ROOT / "fedwarm" / "checkout.py"}
FLOWER_ALLOWED = ("strategies", "clients", *(f"fedwarm/{room}" for room in ("flower", "rounds", "engines", "federation", "node")))
FLOORS = (
    ("settings",),
    ("core",),
    ("norms", "heads", "scopes", "metrics", "tasks"),
    ("pretrained",),
    ("libraries",),
    ("schedules", "privacy", "data", "models", "aggregators", "flower", "faults"),
    ("record", "coding", "training", "node"),
    ("optimisers", "federation"),
    ("engines", "codecs", "quantize", "diffusion"),
    ("sparse", "partitioned"),
    ("methods",),
    ("parts",),
    ("objectives", "augmentations", "privacy.mechanisms"),
    ("measures",),
    ("catalogue",),
    ("relevance",),
    ("rounds",),
    ("report",),
    ("launch",),
    ("cli", "api"),
    ("strategies", "clients"),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# Names of components that are words of their own, too, e.g. of settings' values that have nothing to do with them.
WORDS = {
    "none", "mean", "plain", "dense", "local", "ray", "deployment", "file", "foundation", "domain", "replay", "logistic",
    "widths", "pictures", "augmentation", "delay", "crash", "rq", "lora", "natural", "own", "group", "batch",
    "accuracy", "loss", "language", "mlp", "step", "constant", "cosine", "real", "all", "bias", "head",
}  # fmt: skip
# Files of one component that stand in another room: its command, its side, its price.
OWN = {
    "gen-fedsd": ("fedwarm/cli/augment.py",),
    "gen_fedsd": ("fedwarm/cli/augment.py",),
    "dp-sgd": ("fedwarm/codecs/dp_rec/pricing.py", "fedwarm/codecs/dp_rec/question.py"),
    "quantization_robust": ("fedwarm/quantize/settings.py",),
    "mqat": ("fedwarm/quantize/settings.py",),
    "probes": ("fedwarm/report/sections/information.py",),
    "fedavg": ("fedwarm/rounds/method.py",),  # what a strategy is that says no more
}


def sources(*packages: str) -> list[Path]:
    return [p for package in packages for p in sorted((ROOT / package).rglob("*.py")) if p not in SHIMS]


def name_of(path: Path) -> str:
    """A file's place from the root, with slashes."""
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> list[tuple[int, str]]:
    """(relative level, module) of every import in the file, inside functions too."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module or ""))
    return found


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@lru_cache(maxsize=1)
def modules() -> dict[str, Path]:
    """All files by the names that they are imported by."""
    return {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in sources(*PACKAGES)}


@lru_cache(maxsize=1)
def edges() -> dict[str, set[str]]:
    """Which files each file imports."""
    found: dict[str, set[str]] = {}
    for module, path in modules().items():
        own = module if path.name == "__init__.py" else module.rpartition(".")[0]
        targets = set()
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ImportFrom):
                above = own.split(".")[: len(own.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [node.module])]) if node.level else str(node.module)
                targets |= {name if (name := f"{base}.{alias.name}") in modules() else base for alias in node.names}
        found[module] = (targets & modules().keys()) - {module}
    return found


def room(module: str) -> str:
    """The room of a module, as the floors name it."""
    parts = module.split(".")
    if parts[0] != "fedwarm":
        return parts[0]
    return "privacy.mechanisms" if module.startswith("fedwarm.privacy.mechanisms") else parts[1] if len(parts) > 1 else ""


def roots(path: Path) -> set[str]:
    return {module.split(".")[0] for level, module in imports(path) if level == 0}


def test_every_room_has_its_floor() -> None:
    assert {room(module) for module in modules()} - {""} <= FLOOR.keys()


def test_imports_go_down() -> None:
    up = {
        f"{module} imports {target}"
        for module, targets in edges().items()
        for target in targets
        if room(module) and room(target) and room(module) != room(target) and FLOOR[room(target)] >= FLOOR[room(module)]
    }
    assert not up


def test_no_circle_not_even_by_imports_inside_functions() -> None:
    assert not [sorted(circle) for circle in circles(edges())]


def circles(graph: dict[str, set[str]]) -> Iterator[set[str]]:
    """The sets of modules that reach each other (Tarjan, "Depth-First Search and Linear Graph Algorithms", 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []

    def visit(node: str) -> Iterator[set[str]]:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in graph.get(node, ()):
            if target not in index:
                yield from visit(target)
            if target in stack:
                low[node] = min(low[node], low[target])
        if low[node] == index[node]:
            found = set(stack[stack.index(node) :])
            del stack[stack.index(node) :]
            if len(found) > 1:
                yield found

    for node in graph:
        if node not in index:
            yield from visit(node)


def test_circles_are_found() -> None:
    assert [*circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})] == [{"a", "b", "c"}]


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
        if not name_of(path).startswith(FLOWER_ALLOWED):
            assert not roots(path) & {"flwr", "ray"}, path


def test_no_method_imports_another() -> None:
    for path in sources("fedwarm/methods"):
        for level, module in imports(path):
            assert level == 0, path
            assert not (module.startswith("fedwarm.methods.") and path.name != "__init__.py"), path


def test_a_side_has_files_of_methods_alone() -> None:
    apps = {"__init__", "server_app", "client_app", "pictures", "foreseen"}
    for package in ("strategies", "clients"):
        assert {p.stem for p in (ROOT / package).glob("*.py")} - apps <= {*METHODS.own()}


def test_no_component_is_named_outside_of_its_own_folder() -> None:
    """But for the defaults of settings, what a method presets, and files of the method's own stem on both sides."""
    found = [
        f"{name_of(path)}:{node.lineno} {node.value!r}"
        for path in sources(*PACKAGES)
        if path.name != "kinds.py"
        for node in literals(path)
        if isinstance(node.value, str) and (homes := owned().get(node.value)) and not at_home(path, node.value, homes)
    ]
    assert not found


def at_home(path: Path, name: str, homes: list[str]) -> bool:
    stem, place = name.replace("-", "_"), name_of(path)
    return place.startswith(tuple(homes)) or path.stem == stem or place in OWN.get(name, OWN.get(stem, ()))


@lru_cache(maxsize=1)
def owned() -> dict[str, list[str]]:
    """The folders and files of each component's own, by all ways to write its name."""
    found: dict[str, list[str]] = {}
    for kind in KINDS.values():
        for name in kind.own():
            home = f"{kind.package.replace('.', '/')}/{name.replace('-', '_')}"
            for spelled in {name, name.replace("-", "_"), name.replace("_", "-")} - WORDS:
                found.setdefault(spelled, []).append(home)
    return found


def literals(path: Path) -> list[ast.Constant]:
    """The texts of a file that are neither docstrings nor defaults of settings, nor what a method presets."""
    tree, left_out = tree_of(path), set[int]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "setting":
            left_out.add(id(node.args[0]))
        if isinstance(node, ast.keyword) and node.arg in ("preset", "defaults"):
            left_out.update(id(value) for each in ast.walk(node.value) if isinstance(each, ast.Dict) for value in each.values)
    return [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in left_out]


def test_tables_of_names_import_neither_torch_nor_flower() -> None:
    for package in ("strategies", "clients"):
        assert not roots(ROOT / package / "__init__.py") & {"torch", "flwr"}


def test_a_face_is_the_whole_of_what_it_shows() -> None:
    """A package that says `__all__` has these names, imports no others for show, and misses none."""
    for path in (p for p in sources(*PACKAGES) if p.name == "__init__.py"):
        shown = [
            node for node in tree_of(path).body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        ]
        if shown:
            told = set(ast.literal_eval(shown[0].value))
            imported = {a.asname or a.name for n in ast.walk(tree_of(path)) if isinstance(n, ast.ImportFrom) for a in n.names}
            assert told == imported - {"annotations", "import_module", "TYPE_CHECKING", "Any"}, path


def functions(path: Path) -> list[tuple[str, int]]:
    """(name, lines without the docstring) of every function."""
    out = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            doc = ast.get_docstring(node, clean=False)
            first = node.body[0]
            skipped = (first.end_lineno or 0) - first.lineno + 1 if doc is not None else 0
            out.append((node.name, (node.end_lineno or 0) - node.lineno + 1 - skipped))
    return out


def test_files_and_functions_stay_small() -> None:
    lengths = {p: len(p.read_text().splitlines()) for p in sources(*PACKAGES)}
    assert not {p: n for p, n in lengths.items() if n > 300}
    assert statistics.median(lengths.values()) <= 100
    sizes = {(p, name): n for p in lengths for name, n in functions(p)}
    assert not {key: n for key, n in sizes.items() if n > 60}
    assert statistics.median(sizes.values()) <= 10


def test_every_module_says_what_it_does() -> None:
    assert not [name_of(path) for path in sources(*PACKAGES) if not ast.get_docstring(tree_of(path))]


def test_no_pickle_is_read() -> None:
    for path in sources(*PACKAGES):
        for call in (node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)):
            said = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            assert said.get("allow_pickle", "False") == "False", path
            if ast.unparse(call.func).endswith("torch.load"):
                assert said.get("weights_only") == "True", path

"""Imports go down the floors of the package, never up, and never in a circle.

An import for type checking alone is held to the floors like any other. It makes no circle: it
is never run, and two files of one room may name each other's types. Nor does what stands under
`if __name__ == "__main__":`, which is not run when a file is imported.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

PACKAGE = "tiny_transformer"
SOURCE = Path(__file__).resolve().parents[1] / "src"

# Top floor first: a room imports from the rooms after it.
FLOORS = [
    "cli",
    "course",
    "serving",
    "bench",
    "interop",
    "training",
    "evaluation",
    "hooks",
    "sampling",
    "model",
    "data",
    "text",
    "tracking",
    "viz",
    "config",
    "runtime",
]


def read_package(source: Path) -> dict[str, ast.Module]:
    """Return the parsed files of the package by module name; `a.b.__init__` for packages."""
    modules = {}
    for path in sorted((source / PACKAGE).rglob("*.py")):
        name = ".".join(path.relative_to(source).with_suffix("").parts)
        modules[name] = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    return modules


def resolve(name: str, modules: Mapping[str, object]) -> str | None:
    """Return the file that a dotted name leads to, or None outside the package."""
    parts = name.split(".")
    if parts[0] != PACKAGE:
        return None
    while parts:
        for candidate in [".".join(parts), ".".join([*parts, "__init__"])]:
            if candidate in modules:
                return candidate
        parts.pop()  # a name inside the module
    return None


def imported_names(module: str, tree: ast.AST) -> Iterator[str]:
    """Yield the dotted names that a file imports, wherever in the file it does."""
    parents = module.split(".")
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = parents[: -node.level] if node.level else []
            base = [*base, *([node.module] if node.module else [])]
            yield from (".".join([*base, alias.name]) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            function = node.func
            called = function.attr if isinstance(function, ast.Attribute) else ""
            called = function.id if isinstance(function, ast.Name) else called
            name = node.args[0]
            if called in {"import_module", "__import__"} and isinstance(name, ast.Constant):
                yield str(name.value)


class WithoutTypeChecking(ast.NodeTransformer):
    """Drops what stands under `if TYPE_CHECKING:` and `if __name__ == "__main__":`."""

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        return node.orelse if for_type_checking(node) or for_running(node) else node


def for_type_checking(node: ast.AST) -> bool:
    """Tell whether a statement is `if TYPE_CHECKING:`."""
    return isinstance(node, ast.If) and ast.unparse(node.test) in {
        "TYPE_CHECKING",
        "typing.TYPE_CHECKING",
    }


def for_running(node: ast.If) -> bool:
    """Tell whether a statement is `if __name__ == "__main__":`."""
    return ast.unparse(node.test) == "__name__ == '__main__'"


def import_graph(
    modules: Mapping[str, ast.Module], *, for_types: bool = True
) -> dict[str, set[str]]:
    """Return for each file the files of the package that it imports.

    Args:
        modules: the parsed files.
        for_types: whether imports for type checking alone count.
    """
    graph = {}
    for module, parsed in modules.items():
        tree = parsed if for_types else WithoutTypeChecking().visit(copy.deepcopy(parsed))
        found = {resolve(name, modules) for name in imported_names(module, tree)}
        graph[module] = {name for name in found if name is not None} - {module}
    return graph


def room(module: str) -> str:
    """Return the room of a file, or `.` for the package's own files."""
    parts = module.split(".")
    return parts[1] if len(parts) > 2 else "."


def upward_imports(graph: Mapping[str, set[str]]) -> list[str]:
    """Return each import that goes up a floor, to the package's top, or from no known floor."""
    faults = []
    for module, imports in graph.items():
        if room(module) == ".":
            continue  # the package's own __init__ and __main__ stand above the floors
        if room(module) not in FLOORS:
            faults.append(f"{module} is in a room that has no floor")
            continue
        for name in sorted(imports):
            if room(name) == ".":
                faults.append(f"{module} imports {name}, the top of the package")
            elif room(name) in FLOORS and FLOORS.index(room(name)) < FLOORS.index(room(module)):
                faults.append(f"{module} imports {name}, a floor above")
    return faults


def find_circle(graph: Mapping[str, set[str]]) -> list[str]:
    """Return the files of one circle of imports, or nothing."""
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> list[str]:
        if module in path:
            return path[path.index(module) :]
        if module in done:
            return []
        for name in sorted(graph[module]):
            circle = walk(name, [*path, module])
            if circle:
                return circle
        done.add(module)
        return []

    for module in graph:
        circle = walk(module, [])
        if circle:
            return circle
    return []


def eager_imports(tree: ast.Module, modules: Mapping[str, object]) -> list[str]:
    """Return the files of the package that a file imports as soon as it is imported."""
    eager = [
        node
        for node in tree.body
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) and not for_type_checking(node)
    ]
    found = [
        resolve(name, modules)
        for node in eager
        for name in imported_names(f"{PACKAGE}.__init__", node)
    ]
    return sorted({name for name in found if name not in {None, f"{PACKAGE}.__init__"}})  # type: ignore[type-var]


@pytest.fixture(scope="module")
def modules() -> dict[str, ast.Module]:
    return read_package(SOURCE)


@pytest.mark.requirement("setup.rooms")
def test_imports_go_down_the_floors(modules: dict[str, ast.Module]) -> None:
    graph = import_graph(modules)
    assert sum(len(imports) for imports in graph.values()) > 50  # the reader sees the imports
    assert upward_imports(graph) == []


@pytest.mark.requirement("setup.rooms")
def test_no_imports_go_in_a_circle(modules: dict[str, ast.Module]) -> None:
    assert find_circle(import_graph(modules, for_types=False)) == []


@pytest.mark.requirement("setup.rooms")
def test_the_top_of_the_package_imports_no_room_until_asked(
    modules: dict[str, ast.Module],
) -> None:
    assert eager_imports(modules[f"{PACKAGE}.__init__"], modules) == []


def plant(folder: Path, files: Mapping[str, str], *, for_types: bool = True) -> dict[str, set[str]]:
    for name, content in files.items():
        path = folder / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return import_graph(read_package(folder), for_types=for_types)


PLANTED = {
    "__init__.py": "",
    "model/__init__.py": "",
    "model/mlp.py": "from tiny_transformer.config import d_ff\n",
    "training/__init__.py": "",
    "training/trainer.py": "from tiny_transformer.model import mlp\n",
    "config/__init__.py": "d_ff = 4\n",
}


def test_the_checker_passes_a_house_in_order(tmp_path: Path) -> None:
    graph = plant(tmp_path, PLANTED)
    assert graph["tiny_transformer.training.trainer"] == {"tiny_transformer.model.mlp"}
    assert upward_imports(graph) == []
    assert find_circle(graph) == []


@pytest.mark.parametrize(
    "line",
    [
        "import tiny_transformer.training.trainer",
        "import os, tiny_transformer.training.trainer as t",
        "from tiny_transformer.training.trainer import x",
        "from tiny_transformer.training import trainer",
        "from tiny_transformer import training",
        "from ..training.trainer import x",
        "from .. import training",
        "def f():\n    from tiny_transformer.training import trainer",
        "import importlib\nimportlib.import_module('tiny_transformer.training.trainer')",
        "from tiny_transformer import Trainer",
        "import tiny_transformer",
        "if TYPE_CHECKING:\n    from tiny_transformer.training import trainer",
    ],
)
def test_the_checker_catches_an_upward_import(tmp_path: Path, line: str) -> None:
    faults = upward_imports(plant(tmp_path, PLANTED | {"model/mlp.py": line}))
    assert len(faults) == 1
    assert faults[0].startswith("tiny_transformer.model.mlp imports tiny_transformer.")


def test_the_checker_catches_a_room_without_a_floor(tmp_path: Path) -> None:
    faults = upward_imports(plant(tmp_path, PLANTED | {"shed/rake.py": ""}))
    assert faults == ["tiny_transformer.shed.rake is in a room that has no floor"]


@pytest.mark.parametrize(
    "files",
    [
        {"model/a.py": "from .b import x", "model/b.py": "from . import a"},
        {
            "model/__init__.py": "from .a import x",
            "model/a.py": "from tiny_transformer import model",
        },
        {
            "model/a.py": "from .b import x",
            "model/b.py": "from .c import x",
            "model/c.py": "def f():\n    from .a import x",
        },
    ],
)
def test_the_checker_catches_a_circle(tmp_path: Path, files: dict[str, str]) -> None:
    circle = find_circle(plant(tmp_path, PLANTED | files, for_types=False))
    assert set(circle) == {
        f"tiny_transformer.{name.removesuffix('.py').replace('/', '.')}" for name in files
    }


def test_types_may_name_each_other(tmp_path: Path) -> None:
    a = "if TYPE_CHECKING:\n    from .b import B\nelse:\n    from . import mlp\n"
    files = PLANTED | {"model/a.py": a, "model/b.py": "from .a import A"}
    assert find_circle(plant(tmp_path, files))
    graph = plant(tmp_path, files, for_types=False)
    assert graph["tiny_transformer.model.a"] == {"tiny_transformer.model.mlp"}
    assert find_circle(graph) == []


def test_a_file_that_is_run_may_import_what_imports_it(tmp_path: Path) -> None:
    a = "if __name__ == '__main__':\n    from .b import B\n"
    files = PLANTED | {"model/a.py": a, "model/b.py": "from .a import A"}
    assert find_circle(plant(tmp_path, files, for_types=False)) == []
    upward = "if __name__ == '__main__':\n    from tiny_transformer.training import trainer"
    assert upward_imports(plant(tmp_path, PLANTED | {"model/mlp.py": upward}))


@pytest.mark.parametrize(
    ("top", "eager"),
    [
        ("from tiny_transformer.model import mlp", ["tiny_transformer.model.mlp"]),
        ("try:\n    from .model import mlp\nfinally: pass", ["tiny_transformer.model.mlp"]),
        ("if TYPE_CHECKING:\n    from .model import mlp", []),
        ("def __getattr__(name):\n    from .model import mlp", []),
    ],
)
def test_the_checker_tells_eager_imports_from_lazy_ones(
    tmp_path: Path, top: str, eager: list[str]
) -> None:
    plant(tmp_path, PLANTED | {"__init__.py": top})
    modules = read_package(tmp_path)
    assert eager_imports(modules[f"{PACKAGE}.__init__"], modules) == eager

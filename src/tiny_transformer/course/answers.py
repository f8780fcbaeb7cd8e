"""Somebody's answers as the package `my_transformer`: a learner's, the solutions, a mutant.

Tests say `from my_transformer import attention`, and which folder that is, is decided here.
So one test file grades them all.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import sys
import types
from collections.abc import Iterator
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from tiny_transformer.course.catalogue import Exercise
from tiny_transformer.course.content import STUBS as PACKAGE

_ALLOWED = ("tiny_transformer.config", "tiny_transformer.viz", "tiny_transformer.runtime")
_PARTS = "tiny_transformer.Parts"  # which classes a model is built from: names, no answer


class NotTheirsError(Exception):
    """An answer that was taken from somewhere else; its text says from where."""


class _Fresh(SourceFileLoader):
    """Runs the source as it is now: a compiled file of the same second and size may be older."""

    def get_code(self, fullname: str) -> types.CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


class _Finder(MetaPathFinder):
    """Finds the files of the installed answers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find_spec(
        self, fullname: str, path: object = None, target: object = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.rpartition(".")
        file = self.folder / f"{name}.py"
        if package != PACKAGE or not file.is_file():
            return None
        return spec_from_file_location(fullname, file, loader=_Fresh(fullname, str(file)))


def install_answers(folder: Path) -> None:
    """Make `import my_transformer` mean the files of `folder`, and forget those before."""
    _forget()
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]
    sys.meta_path.insert(0, _Finder(folder))
    package = types.ModuleType(PACKAGE)
    package.__path__ = []  # what makes it a package; its files are found by the finder
    sys.modules[PACKAGE] = package


@contextlib.contextmanager
def installed(folder: Path) -> Iterator[None]:
    """Install answers for a while; those from before are then back, the same modules."""
    before = {name: sys.modules[name] for name in _names_in_sys()}
    finders = list(sys.meta_path)
    install_answers(folder)
    try:
        yield
    finally:
        _forget()
        sys.modules.update(before)
        sys.meta_path[:] = finders


def _names_in_sys() -> list[str]:
    return [name for name in sys.modules if name == PACKAGE or name.startswith(f"{PACKAGE}.")]


def _forget() -> None:
    for name in _names_in_sys():
        del sys.modules[name]


def import_file(path: Path, name: str) -> types.ModuleType:
    """Run a Python file that is in no package, and return it as a module."""
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def module_of(exercise: Exercise) -> types.ModuleType:
    """Import the file of the installed answers that has the exercise."""
    return importlib.import_module(f"{PACKAGE}.{exercise.file.removesuffix('.py')}")


def answer_to(exercise: Exercise) -> Any:
    """Return the installed function or class of an exercise.

    Raises:
        AttributeError: the file does not define it.
    """
    return getattr(module_of(exercise), exercise.function)


def check_is_theirs(exercise: Exercise, folder: Path) -> None:
    """Raise `NotTheirsError` unless the answer is defined in the learner's own file."""
    answer = inspect.unwrap(answer_to(exercise))
    expected = (folder / exercise.file).resolve()
    try:
        where = Path(inspect.getsourcefile(answer) or "").resolve()
    except TypeError:
        raise NotTheirsError(
            f"{exercise.function} is a {type(answer).__name__}, not a function or class that "
            f"stands in {exercise.file}."
        ) from None
    if where != expected:
        raise NotTheirsError(
            f"{exercise.function} comes from {where.name}, not from your {exercise.file}: "
            "the course grades what you write yourself."
        )
    file, borrowed = _borrowed(expected, set(), (*_ALLOWED, _PARTS))
    if borrowed:
        raise NotTheirsError(
            f"Your {file} imports {borrowed}, which has the reference's answers. Write "
            "them yourself; imports of tiny_transformer.config and tiny_transformer.viz are fine."
        )


def borrowed_import(path: Path) -> tuple[str, str]:
    """Return the file and the import that the reference could come through; `""` for none."""
    return _borrowed(path.resolve(), set(), _ALLOWED)


def _borrowed(path: Path, seen: set[Path], allowed: tuple[str, ...]) -> tuple[str, str]:
    """Return the file and the import that the reference's answers could come through.

    The learner's other files that `path` imports are looked at as well.
    """
    seen.add(path)
    for name in _imports(ast.parse(path.read_bytes())):
        if name.split(".")[0] == "tiny_transformer" and not name.startswith(allowed):
            return path.name, name
        other = path.with_name(f"{name.removeprefix(f'{PACKAGE}.').split('.')[0]}.py")
        if name.startswith(f"{PACKAGE}.") and other.is_file() and other not in seen:
            try:
                found = _borrowed(other, seen, allowed)
            except (SyntaxError, ValueError):  # it cannot be imported either
                continue
            if found[1]:
                return found
    return "", ""


def _imports(tree: ast.Module) -> Iterator[str]:
    """Yield the dotted names that a learner's file imports, wherever in the file it does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [PACKAGE] if node.level else []
            base += [node.module] if node.module else []
            whole = ".".join(base)
            if whole in (PACKAGE, "tiny_transformer"):
                yield from (f"{whole}.{alias.name}" for alias in node.names)
            else:
                yield whole
        elif isinstance(node, ast.Call) and node.args:
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called in ("import_module", "__import__") and isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value)

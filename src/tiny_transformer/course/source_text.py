"""Functions and classes as ranges of lines: taken from one file's text and put into another.

Only whole lines are moved, so what stands around them keeps every character.
"""

from __future__ import annotations

import ast
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tiny_transformer.course.content import CourseError


@dataclass(frozen=True)
class Source:
    """A Python file's text, parsed.

    Attributes:
        lines: with their ends.
        tree: of the text.
    """

    lines: list[str]
    tree: ast.Module

    def names(self) -> set[str]:
        """Return what the top level of the file binds."""
        return {name for node in _top_level(self.tree.body) for name in _bound(node)}

    def definitions(self) -> list[str]:
        """Return the functions, classes and constants of the top level, in order."""
        found: dict[str, None] = {}
        for node in self.tree.body:
            if not isinstance(node, ast.Import | ast.ImportFrom):
                found.update(dict.fromkeys(_bound(node)))
        return list(found)

    def ranges(self, name: str) -> list[range]:
        """Return the line ranges of the top level's definitions of `name`, from 0.

        Decorators belong to it, the comments right above it and the indented ones at its end.
        """
        found = []
        for node in self.tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom) or list(_bound(node)) != [name]:
                continue
            decorators: list[ast.expr] = getattr(node, "decorator_list", [])
            begin = min([node.lineno, *(each.lineno for each in decorators)]) - 1
            while begin > 0 and self.lines[begin - 1].startswith("#"):
                begin -= 1
            end = node.end_lineno or node.lineno
            following = end
            while following < len(self.lines):
                line = self.lines[following]
                if line.strip() and not (line[0] in " \t" and line.lstrip().startswith("#")):
                    break
                following += 1
                if line.strip():
                    end = following
            found.append(range(begin, end))
        return found

    def text(self, name: str) -> str:
        """Return the last definition of `name`, with a line's end; `""` if there is none."""
        ranges = self.ranges(name)
        return "".join(self.lines[i] for i in ranges[-1]).rstrip() + "\n" if ranges else ""

    def with_definition(self, name: str, text: str) -> str:
        """Return the file with `text` in the place of `name`'s last definition, or at its end.

        Earlier definitions, which the last one hid, are left out.
        """
        ranges = self.ranges(name)
        if not ranges:
            kept = "".join(self.lines).rstrip("\r\n")
            return self._ends(f"{kept}\n\n\n{text}" if kept else text)
        *hidden, last = ranges
        left_out = {i for lines in hidden for i in lines} | set(last)
        pieces = []
        for i, line in enumerate(self.lines):
            if i == last.start:
                pieces.append(text)
            if i not in left_out:
                pieces.append(line)
        return self._ends("".join(pieces))

    def with_imports_of(self, other: Source, needed: str) -> str:
        """Return the file with those of `other`'s imports that `needed` uses and it lacks."""
        missing = []
        used = {node.id for node in ast.walk(ast.parse(needed)) if isinstance(node, ast.Name)}
        for node in other.tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = set(_bound(node))
                if getattr(node, "module", "") == "__future__":
                    continue
                if names & used and not names & used <= self.names():
                    missing.append(ast.unparse(node) + "\n")
        if not missing:
            return "".join(self.lines)
        place = self._end_of_imports()
        return self._ends("".join([*self.lines[:place], *missing, *self.lines[place:]]))

    def _end_of_imports(self) -> int:
        """Return the line after the docstring and the imports that follow it."""
        place = 0
        for i, node in enumerate(self.tree.body):
            docstring = i == 0 and isinstance(node, ast.Expr)
            if not docstring and not isinstance(node, ast.Import | ast.ImportFrom):
                break
            place = node.end_lineno or place
        return place

    def _ends(self, text: str) -> str:
        """Give all lines the ends that the file's first line has."""
        if self.lines and self.lines[0].endswith("\r\n"):
            return text.replace("\r\n", "\n").replace("\n", "\r\n")
        return text


def read_source(path: Path) -> Source:
    """Read a Python file.

    Raises:
        CourseError: it is not Python, or not UTF-8; the text says where.
    """
    try:
        return parse_source(path.read_bytes().decode("utf-8-sig"))
    except (SyntaxError, ValueError) as error:
        raise CourseError(f"{path.name} cannot be read as Python: {_reason(error)}.") from None


def parse_source(text: str) -> Source:
    """Parse Python text.

    Raises:
        SyntaxError: it is not Python.
        ValueError: it has null bytes.
    """
    # Not splitlines(): a form feed ends no line for Python.
    return Source(list(io.StringIO(text, newline="")), ast.parse(text))


def _reason(error: SyntaxError | ValueError) -> str:
    if isinstance(error, SyntaxError):
        return f"{error.msg} in line {error.lineno}"
    return str(error)


def fingerprint(path: Path, name: str) -> str:
    """Return a short hash of the code of `name`; `""` if the file does not define it.

    Comments on lines of their own, blank lines and spaces at the ends of lines do not count.
    """
    try:
        text = read_source(path).text(name)
    except (OSError, CourseError):
        return ""
    lines = [line.rstrip() for line in text.splitlines()]
    kept = [line for line in lines if line and not line.lstrip().startswith("#")]
    return hashlib.sha256("\n".join(kept).encode()).hexdigest()[:16] if kept else ""


def _top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of a file, those inside `if`, `try` and `with` as well."""
    for node in body:
        yield node
        for field in ("body", "orelse", "finalbody"):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield from _top_level(getattr(node, field, []))
        for handler in getattr(node, "handlers", []):
            yield from _top_level(handler.body)


def _bound(node: ast.stmt) -> Iterator[str]:
    """Yield the names that one statement binds."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Import | ast.ImportFrom):
        for alias in node.names:
            yield alias.asname or alias.name.split(".")[0]
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            for inner in ast.walk(target):
                if isinstance(inner, ast.Name):
                    yield inner.id

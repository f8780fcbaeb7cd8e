"""Write `docs/status.md`: each requirement, and the tests that prove it.

    python tools/status.py            write the page
    python tools/status.py --check    exit 1 if the page is out of step

The requirements stand in `docs/requirements.yaml`. A test names the ones that it proves with
`@pytest.mark.requirement("id")`, on itself, on its class, on a parameter, or on its module as
`pytestmark`. The tests are parsed and not imported, so this takes no time. A requirement
without a test, and a marker that names no requirement, are errors. A test that is always
skipped proves nothing and does not count.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
HEADER = """\
# Status

Each requirement and the tests that prove it. Made by `make status` from
[requirements.yaml](requirements.yaml) and the markers of the tests; do not edit."""

TestFunction = ast.FunctionDef | ast.AsyncFunctionDef


class StatusError(Exception):
    """The requirements and the tests do not fit together."""


@dataclass(frozen=True)
class Requirement:
    """One line of the requirements file."""

    id: str
    sentence: str
    heading: str


def read_requirements(path: Path) -> list[Requirement]:
    """Read the requirements file, in its order.

    Raises:
        StatusError: the file holds no requirement, an id stands twice, or an entry has other
            fields than `id` and `sentence`.
    """
    requirements = []
    seen: set[str] = set()
    for group in yaml.safe_load(path.read_text(encoding="utf-8")) or []:
        for entry in group["requirements"]:
            if set(entry) != {"id", "sentence"}:
                raise StatusError(f"{path.name}: an entry needs an id and a sentence: {entry}")
            if entry["id"] in seen:
                raise StatusError(f"{path.name}: {entry['id']} stands there twice")
            seen.add(entry["id"])
            sentence = " ".join(entry["sentence"].split())
            requirements.append(Requirement(entry["id"], sentence, group["heading"]))
    if not requirements:
        raise StatusError(f"{path.name} holds no requirement")
    return requirements


def is_mark(node: ast.expr, name: str) -> bool:
    """Tell whether an expression is `pytest.mark.NAME` (or `mark.NAME`)."""
    if not (isinstance(node, ast.Attribute) and node.attr == name):
        return False
    owner = node.value
    return (isinstance(owner, ast.Attribute) and owner.attr == "mark") or (
        isinstance(owner, ast.Name) and owner.id == "mark"
    )


def named_ids(nodes: Iterable[ast.AST], where: str) -> set[str]:
    """Return the ids that `requirement` marks name anywhere inside these expressions."""
    ids: set[str] = set()
    for node in (inner for outer in nodes for inner in ast.walk(outer)):
        if not (isinstance(node, ast.Call) and is_mark(node.func, "requirement")):
            continue
        if not node.args or node.keywords:
            raise StatusError(f"{where}:{node.lineno}: requirement takes ids, as plain strings")
        for argument in node.args:
            if not (isinstance(argument, ast.Constant) and isinstance(argument.value, str)):
                raise StatusError(f"{where}:{node.lineno}: an id must be a plain string")
            ids.add(argument.value)
    return ids


def is_skipped(decorators: Iterable[ast.expr]) -> bool:
    """Tell whether a decorator skips the test whatever happens."""
    return any(
        is_mark(node.func if isinstance(node, ast.Call) else node, "skip") for node in decorators
    )


def marks_of_body(body: Iterable[ast.stmt]) -> list[ast.expr]:
    """Return what `pytestmark` is set to in a module or a class."""
    return [
        statement.value
        for statement in body
        if isinstance(statement, ast.Assign)
        and any(
            isinstance(name, ast.Name) and name.id == "pytestmark" for name in statement.targets
        )
    ]


def proofs_in(source: str, where: str) -> Iterator[tuple[str, str]]:
    """Yield (requirement id, test id) for every test of a test file.

    Args:
        source: the text of the file.
        where: its path from the project's folder, as pytest writes it.
    """
    tree = ast.parse(source, filename=where)

    def visit(
        body: list[ast.stmt], prefix: str, inherited: list[ast.expr]
    ) -> Iterator[tuple[str, str]]:
        inherited = inherited + marks_of_body(body)
        for node in body:
            if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
                marks = inherited + node.decorator_list
                yield from visit(node.body, f"{prefix}::{node.name}", marks)
            elif isinstance(node, TestFunction) and node.name.startswith("test"):
                marks = inherited + node.decorator_list
                if not is_skipped(marks):
                    for requirement in sorted(named_ids(marks, where)):
                        yield requirement, f"{prefix}::{node.name}"

    yield from visit(tree.body, where, [])


def collect_proofs(tests: Path, root: Path) -> dict[str, list[str]]:
    """Return the tests of each requirement id that a test file names."""
    proofs: dict[str, list[str]] = {}
    for path in sorted(tests.rglob("test_*.py")):
        where = path.relative_to(root).as_posix()
        for requirement, test in proofs_in(path.read_text(encoding="utf-8"), where):
            proofs.setdefault(requirement, []).append(test)
    return proofs


def find_faults(requirements: Iterable[Requirement], proofs: dict[str, list[str]]) -> list[str]:
    """Return what is wrong: requirements without a test, and marks of no requirement."""
    known = {requirement.id for requirement in requirements}
    faults = [f"{name} has no test" for name in sorted(known - set(proofs))]
    for unknown in sorted(set(proofs) - known):
        faults.append(f"{unknown} is no requirement, but {proofs[unknown][0]} names it")
    return faults


def render(requirements: Iterable[Requirement], proofs: dict[str, list[str]]) -> str:
    """Return the page."""
    lines = [HEADER]
    heading = None
    for requirement in requirements:
        if requirement.heading != heading:
            heading = requirement.heading
            lines += [f"\n## {heading}\n", "| id | requirement | proved by |", "|---|---|---|"]
        tests = "<br>".join(f"`{test}`" for test in proofs.get(requirement.id, [])) or "**nothing**"
        sentence = requirement.sentence.replace("|", "\\|")
        lines.append(f"| `{requirement.id}` | {sentence} | {tests} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Write or check the page; return 1 if something is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    parser.add_argument("--root", type=Path, default=ROOT, help="the project's folder")
    options = parser.parse_args(arguments)
    page = options.root / "docs" / "status.md"
    try:
        requirements = read_requirements(options.root / "docs" / "requirements.yaml")
        proofs = collect_proofs(options.root / "tests", options.root)
        text = render(requirements, proofs)
        faults = find_faults(requirements, proofs)
    except StatusError as error:
        print(f"status: {error}", file=sys.stderr)
        return 1
    if not options.check:
        page.write_text(text, encoding="utf-8")
    elif not page.exists() or page.read_text(encoding="utf-8") != text:
        faults.append("docs/status.md is out of step with the tests; run: make status")
    for fault in faults:
        print(f"status: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())

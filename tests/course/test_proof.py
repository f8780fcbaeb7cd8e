"""The proof of the course: its graders are right about every answer that is known.

Stubs fail, solutions pass, wrong answers fail and are named, right ones pass however they are
written, and the manifest keeps its promises. `tools/grader_report.py` writes the figures down.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from pathlib import Path

import pytest
import yaml
from tests.course.made_up import TEST_SUMS, WRONG_SUMS, write_course

from tiny_transformer.course.answers import answer_to, installed
from tiny_transformer.course.catalogue import DIFFICULTIES, Exercise, Module, load_catalogue
from tiny_transformer.course.content import SOLUTIONS, STUBS, VARIABLE, CourseError, course_folder
from tiny_transformer.course.grading import Grader
from tiny_transformer.course.proof import prove
from tiny_transformer.course.verdict import Verdict
from tiny_transformer.course.workspace import stub_files
from tiny_transformer.course.wrong_answers import load_tests

ROOT = Path(__file__).resolve().parents[2]
MODULES = load_catalogue().modules
EXERCISES = [exercise for module in MODULES for exercise in module.exercises]
LEAST_EXERCISES = {
    "00_setup": 6,
    "01_attention": 10,
    "02_multi_head": 8,
    "03_transformer_block": 8,
    "04_embeddings": 8,
    "05_full_model": 8,
}
LONG = 20
"""Characters from which on a piece of a solution must not stand in a stub."""

each_module = pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
each_exercise = pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.id)


def of(exercise: Exercise) -> Module:
    return next(module for module in MODULES if exercise in module.exercises)


def is_class(exercise: Exercise) -> bool:
    stub = definition(course_folder() / STUBS / exercise.file, exercise.function)
    return isinstance(stub, ast.ClassDef)


def definition(path: Path, name: str) -> ast.FunctionDef | ast.ClassDef:
    found = [node for node in ast.parse(path.read_text()).body if getattr(node, "name", "") == name]
    assert len(found) == 1, f"{path.name} defines {name} {len(found)} times"
    assert isinstance(found[0], ast.FunctionDef | ast.ClassDef)
    return found[0]


@pytest.mark.requirement("course.proof-manifest")
def test_the_course_has_its_modules_and_exercises() -> None:
    """A proof over nothing would prove nothing."""
    sizes = {module.name: len(module.exercises) for module in MODULES}
    assert all(sizes.get(name, 0) >= least for name, least in LEAST_EXERCISES.items()), sizes


@pytest.fixture(scope="module")
def verdicts_on_stubs() -> dict[str, Verdict]:
    with Grader() as grader:
        report = grader.grade(course_folder() / STUBS, EXERCISES)
    return {verdict.exercise: verdict for verdict in report.verdicts}


@pytest.mark.slow
@pytest.mark.requirement("course.proof-stubs")
@each_exercise
def test_a_stub_is_not_attempted(exercise: Exercise, verdicts_on_stubs: dict[str, Verdict]) -> None:
    verdict = verdicts_on_stubs[exercise.id]
    assert verdict.status == "not attempted", verdict


@pytest.mark.requirement("course.proof-solutions")
@pytest.mark.requirement("course.proof-mutants")
@pytest.mark.requirement("course.proof-diagnosis")
@pytest.mark.requirement("course.proof-rewrites")
@each_exercise
def test_right_answers_pass_and_wrong_ones_fail_and_are_named(exercise: Exercise) -> None:
    """Nine in ten are named before every other mistake, in each exercise and so in all."""
    proof = prove(exercise, of(exercise))
    assert proof.solution.passed, proof.solution
    assert proof.solution.n_tests >= 2
    names = [trial.answer.name for trial in proof.mutants]
    assert len(names) >= (6 if is_class(exercise) else 3)
    assert len(set(names)) == len(names)
    caught = [t for t in proof.mutants if t.verdict.status in ("wrong", "raised")]
    assert [trial.answer.name for trial in proof.mutants if trial not in caught] == []
    unnamed = [trial.answer.name for trial in proof.mutants if not trial.named]
    assert len(unnamed) <= 0.1 * len(names), unnamed
    assert len(proof.rewrites) >= (3 if is_class(exercise) else 2)
    assert [trial for trial in proof.rewrites if not trial.verdict.passed] == []


@pytest.mark.requirement("course.proof-manifest")
@each_exercise
def test_three_hints_each_more_concrete(exercise: Exercise) -> None:
    assert len(exercise.hints) == len({hint.strip() for hint in exercise.hints}) == 3
    assert all(len(hint.strip()) > 10 for hint in exercise.hints)
    assert "`" in exercise.hints[2], "the third hint is nearly the line: it has code"


@pytest.mark.requirement("course.proof-manifest")
@each_module
def test_nothing_is_left_to_do(module: Module) -> None:
    """`tools/scaffold.py` marks with TODO what is to be filled in."""
    files = [path for path in module.folder.iterdir() if path.suffix in (".py", ".yaml", ".md")]
    assert files
    assert [path.name for path in files if "TODO" in path.read_text(encoding="utf-8")] == []


@pytest.mark.requirement("course.proof-manifest")
@each_module
def test_the_manifest_keeps_its_order(module: Module) -> None:
    levels = [DIFFICULTIES.index(exercise.difficulty) for exercise in module.exercises]
    assert levels == sorted(levels)
    assert 0 < module.minutes(extra=False) <= 60 * module.hours, "the hours are with reading"
    before: set[str] = {
        e.id for other in MODULES if other.name < module.name for e in other.exercises
    }
    for exercise in module.exercises:
        assert set(exercise.requires) <= before
        before.add(exercise.id)


@pytest.mark.requirement("course.proof-manifest")
@each_exercise
def test_a_file_is_named_as_in_the_model(exercise: Exercise) -> None:
    in_model = (ROOT / "src/tiny_transformer/model" / exercise.file).is_file()
    assert in_model or exercise.file == "warm_up.py"


@pytest.mark.requirement("course.proof-stubs")
@each_exercise
def test_a_stub_raises_and_does_nothing_else(exercise: Exercise) -> None:
    stub = definition(course_folder() / STUBS / exercise.file, exercise.function)
    functions = [stub]
    if isinstance(stub, ast.ClassDef):
        functions = [node for node in stub.body if isinstance(node, ast.FunctionDef)]
        rest = [node for node in stub.body if node not in functions and not is_docstring(node)]
        assert all(isinstance(node, ast.AnnAssign) and node.value is None for node in rest)
    assert ast.get_docstring(stub)
    for function in functions:
        *docstring, last = function.body
        assert all(map(is_docstring, docstring))
        assert ast.unparse(last) == f"raise NotImplementedError({exercise.id!r})"


def is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


@pytest.mark.requirement("course.proof-stubs")
@each_exercise
def test_a_stub_is_called_as_its_solution_is(exercise: Exercise) -> None:
    """A part of the package may take more than is asked for, where that need not be given."""
    with installed(course_folder() / STUBS):
        stub = signatures(answer_to(exercise))
    with installed(course_folder() / SOLUTIONS):
        solution = signatures(answer_to(exercise))
    for name, asked in stub.items():
        needed = inspect.Parameter.empty
        assert asked == [p for p in solution.get(name, []) if p in asked or p[2] is needed]


def signatures(answer: object) -> dict[str, list[tuple[str, object, object]]]:
    """Return the parameters of a function, or of each method that a class defines."""
    methods = {"": answer}
    if inspect.isclass(answer):
        methods = {name: value for name, value in vars(answer).items() if inspect.isfunction(value)}
    return {
        name: [(p.name, p.kind, p.default) for p in inspect.signature(method).parameters.values()]
        for name, method in methods.items()
        if callable(method)
    }


@pytest.mark.requirement("course.proof-stubs")
@each_exercise
def test_no_text_of_a_solution_stands_in_a_stub(exercise: Exercise) -> None:
    text = packed((course_folder() / STUBS / exercise.file).read_text())
    told = [piece for piece in solution_pieces(exercise) if packed(piece) in text]
    assert told == []


def packed(text: str) -> str:
    return re.sub(r"[\s`'\"]", "", text)


def solution_pieces(exercise: Exercise) -> list[str]:
    """Return the statements of a solution and the code of its third hint, where long enough."""
    with installed(course_folder() / SOLUTIONS):
        source = inspect.getsource(inspect.unwrap(answer_to(exercise)))
    tree = ast.parse(textwrap.dedent(source))
    kinds = (ast.Return, ast.Assign, ast.AugAssign)
    pieces = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, kinds)]
    pieces += [piece.removeprefix("return ") for piece in pieces]
    hint = exercise.hints[2]
    pieces += re.findall(r"```(?:python)?\n(.*?)```", hint, re.DOTALL) + re.findall(
        r"`([^`]+)`", hint
    )
    return [piece for piece in pieces if len(packed(piece)) >= LONG]


@pytest.mark.requirement("course.proof-stubs")
def test_the_files_of_the_course_belong_together() -> None:
    """Each stub file has a solution file, and each stub is an exercise."""
    files = {path.name for path in stub_files()}
    assert files == {path.name for path in (course_folder() / SOLUTIONS).glob("*.py")}
    assert files == {exercise.file for exercise in EXERCISES}
    for path in stub_files():
        names = [getattr(node, "name", "") for node in ast.parse(path.read_text()).body]
        wanted = {exercise.function for exercise in EXERCISES if exercise.file == path.name}
        assert {name for name in names if name} == wanted


@pytest.mark.requirement("course.proof-manifest")
@each_module
def test_every_test_belongs_to_an_exercise(module: Module) -> None:
    with installed(course_folder() / SOLUTIONS):
        names = {name for file in load_tests(module, "test_") for name in vars(file)}
    tests = {name for name in names if name.startswith("test_")}
    prefixes = tuple(exercise.prefix for exercise in module.exercises)
    assert tests
    assert {name for name in tests if not name.startswith(prefixes)} == set()


@pytest.mark.requirement("course.proof-manifest")
def test_an_empty_course_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(CourseError, match="has no modules"):
        load_catalogue()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "none"))
    with pytest.raises(CourseError, match="not a folder"):
        load_catalogue()


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        (
            {"01_sums/test_sums.py": TEST_SUMS.replace("expect_unchanged(X, x", "print(X, x")},
            "mutant",
        ),
        ({"01_sums/test_sums.py": TEST_SUMS.replace("[[2.0, 4", "[[2.0, 5")}, "solution"),
        (
            {"01_sums/wrong_answers.py": WRONG_SUMS.replace("return x + x", "return x + x + 1")},
            "rewrite",
        ),
        ({"01_sums/wrong_answers.py": WRONG_SUMS.replace("kept]", "kept][:0]")}, "diagnosis"),
    ],
)
def test_the_proof_sees_a_fault_of_the_course(
    changed: dict[str, str], what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(write_course(tmp_path / "whole")))
    assert faults() == set()
    monkeypatch.setenv(VARIABLE, str(write_course(tmp_path / "faulty", changed)))
    assert what in faults()


def faults() -> set[str]:
    module = load_catalogue().modules[0]
    proof = prove(module.exercises[0], module)
    found = {
        "solution": proof.solution.passed,
        "mutant": not any(trial.verdict.passed for trial in proof.mutants),
        "diagnosis": all(trial.named for trial in proof.mutants),
        "rewrite": all(trial.verdict.passed for trial in proof.rewrites),
    }
    return {what for what, holds in found.items() if not holds}


@pytest.mark.requirement("course.extra")
def test_what_is_not_extra_cannot_wait_for_what_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_course(tmp_path / "course") / "01_sums/module.yaml"
    path.write_text(path.read_text().replace("function: total,", "function: total, extra: true,"))
    monkeypatch.setenv(VARIABLE, str(tmp_path / "course"))
    with pytest.raises(CourseError, match="mean requires total, which is extra"):
        load_catalogue()


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ({"id": "twice"}, "stands twice"),
        ({"function": "double"}, "stands twice"),
        ({"requires": ["scale"]}, "does not come before"),
        ({"difficulty": "easy", "id": "last"}, ""),
        ({"minutes": 0}, "must be above 0"),
        ({"explanation": " "}, "is empty"),
        ({"titel": "x"}, "not a setting"),
        ({"hints": ["a", "b"]}, "hints"),
    ],
)
def test_a_faulty_manifest_is_refused(
    fault: dict[str, object], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_course(tmp_path / "course")
    path = folder / "01_sums/module.yaml"
    manifest = yaml.safe_load(path.read_text())
    extra = {**manifest["exercises"][1], "id": "other", "function": "other", "requires": []}
    manifest["exercises"].append({**extra, "difficulty": "medium", **fault})
    path.write_text(yaml.safe_dump(manifest))
    monkeypatch.setenv(VARIABLE, str(folder))
    told = told or "easier than the one before"
    with pytest.raises(Exception, match=told):
        load_catalogue()

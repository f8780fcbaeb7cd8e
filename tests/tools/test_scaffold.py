"""The scaffold of an exercise: whole enough to load, and refused by the proof until filled in."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from tests.course.made_up import write_course

from tiny_transformer.course import catalogue
from tiny_transformer.course.catalogue import Catalogue, load_catalogue
from tiny_transformer.course.content import STUBS, VARIABLE
from tiny_transformer.course.grading import Grader
from tiny_transformer.course.proof import prove
from tools import scaffold

pytestmark = pytest.mark.requirement("course.scaffold")


@pytest.fixture
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = write_course(tmp_path / "course")
    monkeypatch.setenv(VARIABLE, str(folder))
    return folder


def read_again() -> Catalogue:
    catalogue._read_catalogue.cache_clear()
    return load_catalogue()


@pytest.mark.parametrize(
    ("module", "file"), [("01_sums", "sums.py"), ("02_layers", "waves.py"), ("03_new", "waves.py")]
)
def test_what_it_writes_is_an_exercise_that_nobody_has_answered(
    module: str, file: str, course: Path
) -> None:
    before = len(load_catalogue().select(None))
    assert scaffold.main([module, "new-thing", "--file", file]) == 0
    found = read_again()
    assert len(found.select(None)) == before + 1
    exercise = found.exercise("new-thing")
    assert found.module_of(exercise).name == module
    assert (exercise.file, exercise.function) == (file, "new_thing")
    for path in course.rglob("*.py"):
        ast.parse(path.read_text())
    with Grader() as grader:
        (verdict,) = grader.grade(course / STUBS, [exercise]).verdicts
    assert verdict.status == "not attempted"


def test_the_proof_refuses_what_was_not_filled_in(course: Path) -> None:
    scaffold.main(["03_new", "new-thing", "--file", "waves.py", "--function", "wave"])
    found = read_again()
    proof = prove(found.exercise("wave"), found.module_of(found.exercise("wave")))
    assert not proof.solution.passed
    assert [trial.verdict.passed for trial in proof.rewrites] == [False]
    names = {path.name for path in (course / "03_new").iterdir()}
    assert {"README.md", "theory.md", "notebook.md", "review.md", "module.yaml"} <= names


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["sums", "new", "--file", "sums.py"], "'sums' will not do as a name"),
        (["01_sums", "New", "--file", "sums.py"], "'New' will not do"),
        (["01_sums", "new", "--file", "../sums.py"], "'../sums.py' will not do"),
        (["01_sums", "new", "--file", "sums.py", "--function", "a b"], "'a b' will not do"),
        (["01_sums", "total", "--file", "sums.py"], "stands in the course already"),
    ],
)
def test_a_name_that_will_not_do_is_refused_and_nothing_is_written(
    arguments: list[str], told: str, course: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in course.rglob("*") if path.is_file()}
    assert scaffold.main(arguments) == 2
    assert told in capsys.readouterr().err
    assert {path: path.read_bytes() for path in course.rglob("*") if path.is_file()} == before

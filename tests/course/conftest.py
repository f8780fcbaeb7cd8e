"""The made-up course, a workspace of it, and a grader that needs no child process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tests.course.made_up import write_course

from tiny_transformer.course.answers import installed
from tiny_transformer.course.catalogue import Catalogue, Exercise, load_catalogue
from tiny_transformer.course.content import VARIABLE
from tiny_transformer.course.examination import examine
from tiny_transformer.course.grading import Report
from tiny_transformer.course.verdict import Verdict
from tiny_transformer.course.workspace import init_workspace


class InProcess:
    """Grades as a `Grader` does, in the test's own process."""

    def __init__(self, **_: object) -> None:
        self.jobs: list[list[str]] = []
        self.output = ""

    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def grade(
        self,
        folder: Path,
        exercises: Sequence[Exercise],
        *,
        on_verdict: Callable[[Verdict], None] = lambda verdict: None,
    ) -> Report:
        self.jobs.append([exercise.id for exercise in exercises])
        verdicts = []
        with installed(folder):
            for exercise in exercises:
                module = load_catalogue().module_of(exercise)
                verdicts.append(examine(exercise, module, folder))
                on_verdict(verdicts[-1])
        return Report(tuple(verdicts), self.output)


@pytest.fixture
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the made-up course in the place of the real one."""
    folder = write_course(tmp_path / "course")
    monkeypatch.setenv(VARIABLE, str(folder))
    return folder


@pytest.fixture
def catalogue(course: Path) -> Catalogue:
    return load_catalogue()


@pytest.fixture
def workspace(course: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a fresh workspace, in the current folder."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    return init_workspace(home / "my_transformer").folder


@pytest.fixture
def in_process() -> InProcess:
    return InProcess()

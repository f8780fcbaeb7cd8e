"""The manifest: every exercise of every module, read from the modules' `module.yaml`.

A module's file has its title, its hours and its exercises in order. An exercise names the
file and function that a learner writes, what must be done before, how hard it is and how
long it takes, three hints, and where it comes from. Its tests are the functions
`test_<function>__<promise>` of the module's `test_*.py`; its wrong answers, equivalent
rewrites and probes are in the module's `wrong_answers.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tiny_transformer.config.checks import check
from tiny_transformer.config.loading import read_settings, validate
from tiny_transformer.course.content import CourseError, course_folder
from tiny_transformer.runtime.errors import suggest

Difficulty = Literal["easy", "medium", "hard", "very hard"]
DIFFICULTIES: tuple[Difficulty, ...] = ("easy", "medium", "hard", "very hard")


@dataclass(frozen=True)
class Exercise:
    """One thing to write.

    Attributes:
        id: unique in the course, for instance `causal-mask`.
        title: what it is, in a few words.
        file: the file of the workspace, for instance `attention.py`.
        function: the function or class in it.
        difficulty: easy, medium, hard or very hard; it never falls inside a module.
        minutes: how long it takes.
        hints: three, each more concrete.
        explanation: what the solution does and why, to read after passing.
        source: paper and section, or the reference that it mirrors.
        requires: ids of exercises whose answers it uses.
        extra: beyond the eight days of the course; it comes up when the others have passed.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    id: str
    title: str
    file: str
    function: str
    difficulty: Difficulty
    minutes: int
    hints: tuple[str, str, str]
    explanation: str
    source: str
    requires: tuple[str, ...] = ()
    extra: bool = False

    def __post_init__(self) -> None:
        check(self.minutes > 0, f"{self.id}: minutes is {self.minutes}; it must be above 0.")
        for text in (self.title, self.explanation, self.source, *self.hints):
            check(text.strip() != "", f"{self.id}: a title, hint, explanation or source is empty.")

    @property
    def prefix(self) -> str:
        """What the names of its tests begin with."""
        return f"test_{self.function}__"


@dataclass(frozen=True)
class Module:
    """A chapter of the course.

    Attributes:
        name: its folder, for instance `01_attention`.
        title: as a heading.
        hours: how long it takes, with reading and without extra exercises.
        exercises: in the order of work.
    """

    name: str
    title: str
    hours: float
    exercises: tuple[Exercise, ...]

    def minutes(self, *, extra: bool) -> int:
        """Return how long the exercises take, those that are extra or the others."""
        return sum(exercise.minutes for exercise in self.exercises if exercise.extra == extra)

    @property
    def folder(self) -> Path:
        """Where its text, tests and wrong answers lie."""
        return course_folder() / self.name


@dataclass(frozen=True)
class Catalogue:
    """All modules, in order."""

    modules: tuple[Module, ...]

    def __iter__(self) -> Iterator[Exercise]:
        return (exercise for module in self.modules for exercise in module.exercises)

    def exercise(self, name: str) -> Exercise:
        """Return the exercise with this id; its function's name will do too."""
        for exercise in self:
            if name in (exercise.id, exercise.function):
                return exercise
        names = [exercise.id for exercise in self]
        raise CourseError(f"{name!r} is not an exercise. {suggest(name, names)}")

    def select(self, name: str | None) -> tuple[Exercise, ...]:
        """Return the exercises of a module (`01`, `attention`, `01_attention`), one, or all."""
        if name is None:
            return tuple(self)
        for module in self.modules:
            if name in (module.name, *module.name.split("_", 1)):
                return module.exercises
        modules = [module.name for module in self.modules]
        ids = [exercise.id for exercise in self]
        if name not in ids and name not in {exercise.function for exercise in self}:
            raise CourseError(
                f"{name!r} is neither a module nor an exercise. {suggest(name, modules + ids)}"
            )
        return (self.exercise(name),)

    def module_of(self, exercise: Exercise) -> Module:
        """Return the module that has `exercise`."""
        return next(module for module in self.modules if exercise in module.exercises)


def load_catalogue() -> Catalogue:
    """Read the manifest of every module.

    Raises:
        CourseError: there is no module, two exercises share an id or a function, or one asks for
            an exercise that does not come before it.
        ConfigError: a file is damaged, or a field is missing or has another type.
    """
    return _read_catalogue(course_folder())


@functools.cache
def _read_catalogue(folder: Path) -> Catalogue:
    paths = sorted(folder.glob("[0-9][0-9]_*/module.yaml"))
    if not paths:
        raise CourseError(f"{folder} has no modules: no folder such as 01_name with a module.yaml.")
    catalogue = Catalogue(tuple(_read_module(path) for path in paths))
    seen: dict[str, Exercise] = {}
    functions: set[tuple[str, str]] = set()
    for exercise in catalogue:
        if exercise.id in seen or (exercise.file, exercise.function) in functions:
            raise CourseError(f"The exercise {exercise.id} stands twice in the course.")
        for needed in exercise.requires:
            if needed not in seen:
                raise CourseError(f"{exercise.id} requires {needed}, which does not come before.")
            if seen[needed].extra and not exercise.extra:
                raise CourseError(f"{exercise.id} requires {needed}, which is extra.")
        seen[exercise.id] = exercise
        functions.add((exercise.file, exercise.function))
    return catalogue


@dataclass(frozen=True)
class _ModuleFile:
    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    title: str
    hours: float
    exercises: tuple[dict[str, Any], ...]


def _read_module(path: Path) -> Module:
    settings: dict[str, Any] = read_settings(path)
    read = validate(_ModuleFile, settings, where=f"{path.parent.name}/module.yaml")
    exercises = tuple(
        validate(Exercise, each, where=f"{path.parent.name}/module.yaml: {each.get('id', number)}")
        for number, each in enumerate(read.exercises, start=1)
    )
    levels = [DIFFICULTIES.index(exercise.difficulty) for exercise in exercises]
    if levels != sorted(levels):
        raise CourseError(f"{path.parent.name}: an exercise is easier than the one before it.")
    return Module(path.parent.name, read.title, read.hours, exercises)

"""`tiny course init` and `tiny course reset`: the learner's files, begun and begun again."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import tyro

from tiny_transformer.cli.course_options import ExerciseName, Maybe, Place, console, shown
from tiny_transformer.course.catalogue import load_catalogue
from tiny_transformer.course.content import STUBS
from tiny_transformer.course.workspace import (
    Setup,
    init_workspace,
    is_workspace,
    reset_exercise,
    reset_file,
)


@dataclass(frozen=True)
class Init:
    """Make a workspace, or add to one what is new in the course; what you wrote stays."""

    folder: Maybe = None
    """Where (default: my_transformer, or the workspace that the current folder is in)."""

    def run(self) -> int:
        """Make it and say what to type next."""
        folder = _around() if self.folder is None else Path(self.folder)
        setup = init_workspace(folder)
        if setup.is_new:
            _welcome(setup)
        else:
            _tell_additions(setup)
        for problem in setup.problems:
            console().print(problem, soft_wrap=True)
        return 2 if setup.problems else 0


def _around() -> Path:
    here = Path().resolve()
    found = next((folder for folder in (here, *here.parents) if is_workspace(folder)), None)
    return Path(os.path.relpath(found)) if found else Path(STUBS)


def _welcome(setup: Setup) -> None:
    exercises = tuple(load_catalogue())
    first, n_extra = exercises[0], sum(each.extra for each in exercises)
    minutes = sum(each.minutes for each in exercises if not each.extra)
    extra = f", and {n_extra} extra ones" if n_extra else ""
    text = f"""\
Welcome. {setup.folder}/ is your workspace: {len(exercises) - n_extra} exercises, about \
{minutes / 60:.0f} hours of writing{extra}.

Every function in it is yours to write; so far each one only says that it is not written.
That is why the first check fails, and it is meant to:

    tiny course check

Then open {setup.folder / first.file}, read what {first.function} should do, write it in \
the place
of the line with NotImplementedError, save, and check again. What else there is:

    tiny course watch     checks whenever you save
    tiny course list      all exercises, and what is next
    tiny course hint      three hints, each more concrete"""
    console().print(text, soft_wrap=True)


def _tell_additions(setup: Setup) -> None:
    lines = [f"{setup.folder / name} is new." for name in setup.added_files]
    for added in setup.added_functions:
        file, _, name = added.partition(": ")
        lines.append(f"{name} is new, at the end of {setup.folder / file}.")
    if not lines and not setup.problems:
        lines = [f"{setup.folder}/ has all that the course has; nothing was changed."]
    elif lines:
        lines.append("What you wrote is as it was.")
    console().print("\n".join(lines), soft_wrap=True)


@dataclass(frozen=True)
class Reset(Place):
    """Put the stub of one exercise back; a copy of your file is kept."""

    exercise_name: ExerciseName = tyro.MISSING
    """The exercise's id, or its function."""
    file: bool = False
    """Put the exercise's whole file back."""

    def run(self) -> int:
        """Put it back and say where the copy is."""
        exercise = self.catalogue.exercise(self.exercise_name)
        copy = (reset_file if self.file else reset_exercise)(self.folder, exercise)
        again = [e for e in self.catalogue if e.file == exercise.file] if self.file else [exercise]
        for each in again:
            if self.progress.passed(each):
                self.progress.update(each, passed_at="", source="")
        what = exercise.file if self.file else f"The stub of {exercise.function}"
        kept = f" Your file as it was: {shown(copy)}" if copy else ""
        console().print(f"{what} is back.{kept}", soft_wrap=True)
        return 0

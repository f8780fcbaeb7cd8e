"""`tiny course hint` and `tiny course solution`: help, a step at a time, and the answer."""

from __future__ import annotations

from dataclasses import dataclass

import tyro

from tiny_transformer.cli.course_options import ExerciseName, Maybe, Place, console
from tiny_transformer.cli.course_show import show_hints, show_reference
from tiny_transformer.course.content import CourseError


@dataclass(frozen=True)
class Hint(Place):
    """Show the next of an exercise's three hints; those before are shown again."""

    exercise_name: Maybe = None
    """The exercise's id, or its function (default: the next one)."""

    def run(self) -> int:
        """Show it."""
        exercise = self.exercise(self.exercise_name)
        show_hints(console(), exercise, self.progress.show_hint(exercise))
        return 0


@dataclass(frozen=True)
class Solution(Place):
    """Show the solution of an exercise that has passed, what it does and why."""

    exercise_name: ExerciseName = tyro.MISSING
    """The exercise's id, or its function."""
    reveal: bool = False
    """Show it although the exercise has not passed."""

    def run(self) -> int:
        """Show it."""
        exercise = self.catalogue.exercise(self.exercise_name)
        passed = self.progress.passed(exercise)
        if not passed and not self.reveal and not self.progress.entry(exercise).revealed:
            raise CourseError(
                f"{exercise.id} has not passed yet. A hint: tiny course hint {exercise.id}. To see "
                f"the solution all the same: tiny course solution {exercise.id} --reveal"
            )
        from tiny_transformer.course.reference import find_reference

        show_reference(console(), exercise, find_reference(exercise))
        if not passed:
            self.progress.update(exercise, revealed=True)
        return 0

"""`tiny course check`: is it right, and if not, what did the code do instead.

The exit status is 0 where all that was checked passes, 1 where something does not, and 2 where
the command itself cannot be carried out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from tiny_transformer.cli.course_options import Place, console, shown, warn
from tiny_transformer.cli.course_show import show_output, show_verdict
from tiny_transformer.course.catalogue import Exercise
from tiny_transformer.course.content import CourseError
from tiny_transformer.course.grading import Grader, Report
from tiny_transformer.course.verdict import Verdict
from tiny_transformer.runtime.errors import StorageError

NOT_PASSED = 1
"""Exit status where an answer that was checked does not pass."""


@dataclass(frozen=True)
class Check(Place):
    """Check an exercise, a module or all; exit status 1 where something does not pass."""

    what: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="MODULE|EXERCISE")] = (
        None
    )
    """A module (01, attention, 01_attention) or an exercise (default: the next one)."""
    all: bool = False
    """Check every exercise."""
    json: bool = False
    """Print the verdicts as JSON."""

    def run(self) -> int:
        """Check and tell; return 0 or 1."""
        exercises = self._chosen()
        if not exercises:
            console().print("Every exercise has passed. To check them again: --all")
            return 0
        with Grader() as grader:
            report = grader.grade(self.folder, exercises, on_verdict=self._take)
        passed = all(verdict.passed for verdict in report.verdicts)
        if self.json:
            verdicts = [verdict.to_dict() for verdict in report.verdicts]
            text = {"passed": passed, "verdicts": verdicts, "output": report.output}
            print(json.dumps(text, indent=2))
        else:
            self._finish(exercises, report)
        return 0 if passed else NOT_PASSED

    def _chosen(self) -> Sequence[Exercise]:
        if self.all and self.what is not None:
            raise CourseError(f"--all checks everything, so {self.what!r} says nothing. Drop one.")
        self.progress  # noqa: B018 - a missing workspace is told before a wrong name
        if self.all or self.what is not None:
            return self.catalogue.select(self.what)
        following = self.progress.next_exercise(self.catalogue)
        return [] if following is None else [following]

    def _take(self, verdict: Verdict) -> None:
        """Keep a verdict, and show it."""
        exercise = self.catalogue.exercise(verdict.exercise)
        try:
            self.progress.record(exercise, verdict)
        except StorageError as error:
            warn(f"Your progress could not be saved. {error}")
        if not self.json:
            needs = self.progress.blocked_by(exercise, self.catalogue)
            show_verdict(console(), exercise, verdict, needs)

    def _finish(self, exercises: Sequence[Exercise], report: Report) -> None:
        """Print what the code printed, how much passes, and what to do next."""
        out = console()
        show_output(out, report.output)
        n_passed = sum(verdict.passed for verdict in report.verdicts)
        if len(exercises) > 1:
            out.print(f"{n_passed} of {len(exercises)} exercises pass.")
        failed = next((verdict for verdict in report.verdicts if not verdict.passed), None)
        if failed is not None:
            out.print(
                self._advice(self.catalogue.exercise(failed.exercise), failed), soft_wrap=True
            )
            return
        if len(exercises) == 1:
            out.print(f"Compare with the reference: tiny course solution {exercises[0].id}")
        following = self.progress.next_exercise(self.catalogue)
        if following is None:
            out.print("Every exercise has passed.")
        else:
            out.print(
                f"Next: {following.id}, {following.title} ({following.minutes} minutes): "
                f"{following.function} in {shown(self.folder / following.file)}",
                soft_wrap=True,
            )

    def _advice(self, exercise: Exercise, verdict: Verdict) -> str:
        if verdict.status in ("not attempted", "blocked"):
            entries = [self.progress.entry(each) for each in self.catalogue]
            first = not any(entry.attempts for entry in entries)
            meant = "This first failure is meant: nothing is written yet. " if first else ""
            path = shown(self.folder / exercise.file)
            return (
                f"{meant}Write {exercise.function} in {path}, save, and type: tiny course check "
                f"{exercise.id}"
            )
        return f"A hint: tiny course hint {exercise.id}"

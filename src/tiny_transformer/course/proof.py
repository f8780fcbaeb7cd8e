"""The course put to the test: every solution, wrong answer and rewrite is graded.

A grader that passes a wrong answer, or fails a right one that is written differently, is a
fault of the course. `tests/course/test_proof.py` asks for none, and `tools/grader_report.py`
writes down what was found.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tiny_transformer.course.answers import answer_to, installed, module_of
from tiny_transformer.course.catalogue import Exercise, Module
from tiny_transformer.course.content import SOLUTIONS, course_folder
from tiny_transformer.course.diagnosis import Remembered
from tiny_transformer.course.examination import examine
from tiny_transformer.course.verdict import Verdict
from tiny_transformer.course.wrong_answers import Mutant, Rewrite, load_wrong_answers


@dataclass(frozen=True)
class Trial:
    """An answer and the verdict on it.

    Attributes:
        answer: a known wrong one, or a right one written differently.
        verdict: what the exercise's tests and its diagnosis made of it.
    """

    answer: Mutant | Rewrite
    verdict: Verdict

    @property
    def named(self) -> bool:
        """Whether the diagnosis is this very mistake."""
        found = self.verdict.diagnosis
        return found is not None and found.name == self.answer.name


@dataclass(frozen=True)
class Proof:
    """What the graders of one exercise make of answers that are known.

    Attributes:
        exercise: which.
        solution: the verdict on the solution.
        mutants: wrong answers; none should pass.
        rewrites: right ones; all should pass.
    """

    exercise: Exercise
    solution: Verdict
    mutants: tuple[Trial, ...]
    rewrites: tuple[Trial, ...]


def prove(exercise: Exercise, module: Module) -> Proof:
    """Grade the solution and every known answer of an exercise.

    This runs them in the process that asks, without a time limit.
    """
    remembered: Remembered = {}
    with installed(course_folder() / SOLUTIONS):
        known = load_wrong_answers(module, exercise.function)
        solution = examine(exercise, module, course_folder() / SOLUTIONS, theirs=False)
        mutants, rewrites = (
            tuple(
                Trial(each, grade_answer(exercise, module, each.answer, remembered))
                for each in answers.get(exercise.function, [])
            )
            for answers in (known.mutants, known.rewrites)
        )
    return Proof(exercise, solution, mutants, rewrites)


def grade_answer(
    exercise: Exercise, module: Module, answer: Any, remembered: Remembered | None = None
) -> Verdict:
    """Grade a function or class in the place of the installed answer of an exercise."""
    folder = course_folder() / SOLUTIONS
    file, before = module_of(exercise), answer_to(exercise)
    setattr(file, exercise.function, answer)
    try:
        return examine(exercise, module, folder, theirs=False, remembered=remembered)
    finally:
        setattr(file, exercise.function, before)

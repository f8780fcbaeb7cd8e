"""The course's own answers: their code, as it stands in the package, and where that is."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path

from tiny_transformer.course.answers import answer_to, installed
from tiny_transformer.course.catalogue import Exercise
from tiny_transformer.course.content import SOLUTIONS, course_folder


@dataclass(frozen=True)
class Reference:
    """A solution.

    Attributes:
        code: its source.
        path: the file that has it.
        line: where it begins there, from 1.
    """

    code: str
    path: Path
    line: int


def find_reference(exercise: Exercise) -> Reference:
    """Return the solution of an exercise; PyTorch is imported for it."""
    with installed(course_folder() / SOLUTIONS):
        answer = inspect.unwrap(answer_to(exercise))
        lines, line = inspect.getsourcelines(answer)
        return Reference("".join(lines), Path(inspect.getfile(answer)), max(line, 1))

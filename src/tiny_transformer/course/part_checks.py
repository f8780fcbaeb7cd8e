"""Each part of a workspace looked at before a model is trained on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tiny_transformer.config import ModelConfig
from tiny_transformer.course.catalogue import Catalogue, Exercise
from tiny_transformer.course.comparison import Comparison
from tiny_transformer.course.divergence import compare_each
from tiny_transformer.course.grading import Grader
from tiny_transformer.course.verdict import Verdict
from tiny_transformer.training.written_parts import WrittenParts


@dataclass(frozen=True)
class PartsChecked:
    """What checking came to.

    Attributes:
        verdicts: on the exercises that the parts answer, with their exercises.
        comparisons: of each part alone, and of the right ones together.
        wrong: names of the parts that fail either.
    """

    verdicts: tuple[tuple[Exercise, Verdict], ...]
    comparisons: tuple[Comparison, ...]
    wrong: tuple[str, ...]


def check_parts(
    parts: WrittenParts, folder: Path, config: ModelConfig, catalogue: Catalogue
) -> PartsChecked:
    """Run the tests of each part's exercise, in a child process, and compare with the reference.

    Args:
        parts: those taken from `folder`.
        folder: the workspace.
        config: of the model that they are for.
        catalogue: of all exercises; a part that answers none is only compared.
    """
    answers = {answer: part for part, answer in parts.taken.items()}
    exercises = [e for e in catalogue if (e.file, e.function) in answers]
    with Grader() as grader:
        report = grader.grade(folder, exercises)
    verdicts = tuple(zip(exercises, report.verdicts, strict=True))
    wrong = [answers[e.file, e.function] for e, verdict in verdicts if not verdict.passed]
    crashed = {
        answers[e.file, e.function]
        for e, verdict in verdicts
        if verdict.status in ("timed out", "crashed")
    }
    comparisons: tuple[Comparison, ...] = ()
    if not crashed:  # it would do the same to this process
        comparisons = tuple(compare_each(parts, config))
    wrong += [name for one in comparisons if not one.same for name in one.parts]
    return PartsChecked(verdicts, comparisons, tuple(dict.fromkeys(wrong)))

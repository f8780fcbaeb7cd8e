"""How a verdict, hints and a solution look in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tiny_transformer.course.catalogue import Exercise
from tiny_transformer.course.progress import N_HINTS
from tiny_transformer.course.verdict import Diagnosis, Verdict

if TYPE_CHECKING:
    from tiny_transformer.course.reference import Reference

_MOST_LINES = 15
_HEADS = {
    "wrong": "is not right yet",
    "raised": "raised an exception",
    "missing": "is missing",
    "not theirs": "is not your own",
    "timed out": "took too long",
    "crashed": "ended the process",
}


def show_verdict(
    out: Console, exercise: Exercise, verdict: Verdict, not_passed: Sequence[str] = ()
) -> None:
    """Print what became of an exercise.

    Args:
        out: where to.
        exercise: which.
        verdict: on it.
        not_passed: ids of exercises that it builds on and that have not passed.
    """
    if verdict.passed:
        tests = f"all {verdict.n_tests} tests" if verdict.n_tests > 1 else "its test"
        out.print(Text(f"✓ {exercise.id} passes {tests}", style="green"))
    elif verdict.status == "not attempted":
        out.print(
            f"○ {exercise.id} is not written yet: {exercise.function} in {exercise.file}",
            soft_wrap=True,
        )
    elif verdict.status == "blocked":
        out.print(f"○ {exercise.id} cannot be checked yet. {verdict.message}", soft_wrap=True)
    else:
        _show_failure(out, exercise, verdict, not_passed)


def _show_failure(
    out: Console, exercise: Exercise, verdict: Verdict, not_passed: Sequence[str]
) -> None:
    head = Text(f"✗ {exercise.id} {_HEADS[verdict.status]}", style="bold red")
    counted = f"   {verdict.n_passed} of {verdict.n_tests} tests pass" if verdict.n_tests else ""
    out.print(head + Text(counted, style="not bold default"))
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    if verdict.test == "is imported":
        table.add_row("when", f"{exercise.file} is imported")
    elif verdict.test:
        table.add_row("promised", f"{exercise.function} {verdict.test}")
    table.add_row("came", verdict.message)
    if verdict.picture:
        table.add_row("", Padding(Text(verdict.picture), (1, 0)))
    if verdict.where:
        table.add_row("where", verdict.where)
    if verdict.diagnosis is not None:
        table.add_row("why", Text(diagnosis_sentence(verdict.diagnosis), style="yellow"))
    if not_passed:
        has = "has" if len(not_passed) == 1 else "have"
        table.add_row("note", f"It builds on {', '.join(not_passed)}, which {has} not passed yet.")
    out.print(Padding(table, (0, 0, 0, 2)))


def diagnosis_sentence(diagnosis: Diagnosis) -> str:
    """Return what to tell of a mistake: plainly where it behaves the same, else as a guess."""
    if diagnosis.exact:
        return f"This is what your code does: {diagnosis.says}"
    return f"This may be what your code does, though not in every case: {diagnosis.says}"


def show_output(out: Console, output: str) -> None:
    """Print the first lines of what the learner's code printed."""
    lines = output.strip("\n").splitlines()
    if not lines:
        return
    out.print(Text("Your code printed:", style="dim"))
    for line in lines[:_MOST_LINES]:
        out.print(Text(f"  {line[: out.width - 4]}"))
    if len(lines) > _MOST_LINES:
        out.print(Text(f"  ... and {len(lines) - _MOST_LINES} lines more", style="dim"))


def show_hints(out: Console, exercise: Exercise, shown: int) -> None:
    """Print the first `shown` hints of an exercise."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for number, hint in enumerate(exercise.hints[:shown], start=1):
        table.add_row(f"{number}", hint.strip())
    left = N_HINTS - shown
    after = (
        f"{left} more: tiny course hint {exercise.id}"
        if left
        else f"That was the last. The solution: tiny course solution {exercise.id} --reveal"
    )
    out.print(Group(Text(f"{exercise.id}: {exercise.title}", style="bold"), table))
    out.print(Text(after, style="dim"), soft_wrap=True)


def show_reference(out: Console, exercise: Exercise, reference: Reference) -> None:
    """Print the solution of an exercise, what it does and why, and where it stands."""
    out.print(Text(f"{exercise.id}: {exercise.title}", style="bold"))
    if out.is_terminal:
        from rich.syntax import Syntax

        out.print(Padding(Syntax(reference.code, "python", background_color="default"), (1, 0)))
    else:
        out.print(f"\n{reference.code}", soft_wrap=True)
    out.print(exercise.explanation.strip(), soft_wrap=not out.is_terminal)
    out.print(f"\nSource: {exercise.source}", soft_wrap=True)
    out.print(f"It stands in {reference.path}, line {reference.line}.", soft_wrap=True)

"""Write docs/grader-report.md: what the graders of the course make of answers that are known.

    python tools/grader_report.py            # writes the page
    python tools/grader_report.py --check    # exit 1 if the page is out of date

Every wrong answer and every rewrite that the course ships is graded. Answers that were written
afresh, by somebody who did not see those, may lie in `course/fresh_answers/*.py`, under the
same decorators; `course/fresh_answers/judged.yaml` says for a wrong one which diagnoses name
its mistake: `file.function.answer: [diagnosis, ...]`, and under `note` what else should be known.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tiny_transformer.course.answers import installed
from tiny_transformer.course.catalogue import Exercise, Module, load_catalogue
from tiny_transformer.course.content import SOLUTIONS, course_folder
from tiny_transformer.course.proof import Proof, Trial, grade_answer, prove
from tiny_transformer.course.wrong_answers import read_answers

PAGE = Path(__file__).resolve().parents[1] / "docs" / "grader-report.md"
HEAD = """\
# What the graders catch

Written by `python tools/grader_report.py`; `--check` tells whether it is up to date.

A grader is measured with answers that are known to be wrong, and with right ones that are
written differently. *Caught* says how many wrong answers fail the tests, *named* how many of
them the diagnosis names as what they are, before every other mistake that it knows, and
*rewrites* how many right answers pass.
"""


@dataclass(frozen=True)
class Fresh:
    """Answers to one exercise that were written afresh.

    Attributes:
        exercise: which.
        mutants: wrong ones, each with the diagnoses that name its mistake; None if nobody judged.
        rewrites: right ones.
    """

    exercise: Exercise
    mutants: tuple[tuple[Trial, tuple[str, ...] | None], ...]
    rewrites: tuple[Trial, ...]


def row(cells: Iterable[object]) -> str:
    """Return a line of a Markdown table."""
    return (
        "| " + " | ".join(" ".join(str(cell).split()).replace("|", "\\|") for cell in cells) + " |"
    )


def table(head: Sequence[str], rows: Iterable[Iterable[object]]) -> list[str]:
    """Return a Markdown table."""
    return [row(head), "|" + "---|" * len(head), *map(row, rows)]


def share(part: int, whole: int) -> str:
    """Return `3 of 4 (75 %)`."""
    return f"{part} of {whole} ({100 * part / whole:.0f} %)" if whole else "none"


def caught(trials: Iterable[Trial]) -> int:
    """Return how many wrong answers fail."""
    return sum(not trial.verdict.passed for trial in trials)


def shipped(proofs: Mapping[str, Sequence[Proof]]) -> list[str]:
    """Return the part about the answers that the course ships."""
    every = [proof for found in proofs.values() for proof in found]
    mutants = [trial for proof in every for trial in proof.mutants]
    rewrites = [trial for proof in every for trial in proof.rewrites]
    named = [trial for trial in mutants if trial.named]
    lines = [
        "## The course's own answers",
        "",
        f"- wrong answers caught: {share(caught(mutants), len(mutants))}",
        f"- wrong answers named first: {share(len(named), len(mutants))}",
        f"- rewrites passed: {share(sum(t.verdict.passed for t in rewrites), len(rewrites))}",
    ]
    for name, found in proofs.items():
        lines += ["", f"### {name}", ""]
        lines += table(
            ("exercise", "tests", "caught", "named", "rewrites"),
            (
                (
                    f"`{proof.exercise.id}`",
                    proof.solution.n_tests,
                    f"{caught(proof.mutants)} of {len(proof.mutants)}",
                    f"{sum(trial.named for trial in proof.mutants)} of {len(proof.mutants)}",
                    f"{sum(t.verdict.passed for t in proof.rewrites)} of {len(proof.rewrites)}",
                )
                for proof in found
            ),
        )
        lines += ["", "<details><summary>Each wrong answer, and what it is told</summary>", ""]
        lines += table(
            ("exercise", "wrong answer", "first promise broken", "diagnosis"),
            (
                (f"`{proof.exercise.id}`", trial.answer.name, _broken(trial), _diagnosis(trial))
                for proof in found
                for trial in proof.mutants
            ),
        )
        lines += ["", "</details>"]
    return lines


def _broken(trial: Trial) -> str:
    return "**none: it passes**" if trial.verdict.passed else trial.verdict.test


def _diagnosis(trial: Trial) -> str:
    found = trial.verdict.diagnosis
    if found is None:
        return "none"
    return "its own" if trial.named else f"{found.name}{'' if found.exact else ' (a guess)'}"


def judgements(folder: Path) -> dict[str, Any]:
    """Return what `judged.yaml` says, nothing if there is none."""
    file = folder / "judged.yaml"
    return yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}


def fresh_answers(folder: Path, modules: Sequence[Module]) -> list[Fresh]:
    """Grade the answers that were written afresh, if there are any."""
    judged = judgements(folder)
    found = []
    for path in sorted(folder.glob("*.py")):
        with installed(course_folder() / SOLUTIONS):
            answers = read_answers(path, f"fresh_{path.stem}")
            for module in modules:
                for exercise in module.exercises:
                    wrong = answers.mutants.get(exercise.function, [])
                    right = answers.rewrites.get(exercise.function, [])
                    if not wrong and not right:
                        continue
                    mutants = []
                    for each in wrong:
                        key = f"{path.stem}.{exercise.function}.{each.name}"
                        names = judged.get(key)
                        trial = Trial(each, grade_answer(exercise, module, each.answer))
                        mutants.append((trial, None if names is None else tuple(names)))
                    rewrites = tuple(
                        Trial(each, grade_answer(exercise, module, each.answer)) for each in right
                    )
                    found.append(Fresh(exercise, tuple(mutants), rewrites))
    return found


def afresh(found: Sequence[Fresh], note: str = "") -> list[str]:
    """Return the part about answers that were written afresh."""
    lines = ["## Answers written afresh", ""]
    if note:
        lines += [note.strip(), ""]
    if not found:
        return [*lines, "None yet: they belong in `course/fresh_answers/`."]
    wrong = [(trial, names) for fresh in found for trial, names in fresh.mutants]
    right = [trial for fresh in found for trial in fresh.rewrites]
    diagnosed = [trial for trial, _ in wrong if trial.verdict.diagnosis is not None]
    alarms = [trial for trial in right if not trial.verdict.passed]
    sensible = sum(_is_sensible(trial, names) == "yes" for trial, names in wrong)
    lines += [
        "Their writer did not see the wrong answers and rewrites above.",
        "",
        f"- wrong answers caught: {share(caught(t for t, _ in wrong), len(wrong))}",
        f"- wrong answers with a diagnosis: {share(len(diagnosed), len(wrong))}",
        f"- with one that names the mistake: {share(sensible, len(wrong))}",
        f"- right answers that fail (false alarms): {share(len(alarms), len(right))}",
        "",
    ]
    lines += table(
        ("exercise", "wrong answer", "what it does", "caught by", "diagnosis", "names it"),
        (
            (
                f"`{fresh.exercise.id}`",
                trial.answer.name,
                getattr(trial.answer, "says", ""),
                _broken(trial),
                _diagnosis(trial),
                _is_sensible(trial, names),
            )
            for fresh in found
            for trial, names in fresh.mutants
        ),
    )
    if alarms:
        lines += ["", "False alarms:", ""]
        lines += [f"- `{t.answer.function}`, {t.answer.name}: {t.verdict.message}" for t in alarms]
    return lines


def _is_sensible(trial: Trial, names: tuple[str, ...] | None) -> str:
    diagnosis = trial.verdict.diagnosis
    if diagnosis is None:
        return "no"
    if names is None:
        return "not judged"
    return "yes" if diagnosis.name in names else "no"


def report() -> str:
    """Grade everything; return the page."""
    modules = load_catalogue().modules
    proofs = {
        module.name: [prove(exercise, module) for exercise in module.exercises]
        for module in modules
    }
    folder = course_folder() / "fresh_answers"
    fresh, note = fresh_answers(folder, modules), judgements(folder).get("note", "")
    return "\n".join([HEAD, *shipped(proofs), "", *afresh(fresh, note)]) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page, or compare it; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if it differs")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page (default %(default)s)")
    options = parser.parse_args(arguments)
    text = report()
    if not options.check:
        options.page.write_text(text, encoding="utf-8")
        return 0
    if options.page.is_file() and options.page.read_text(encoding="utf-8") == text:
        return 0
    print(f"{options.page} is out of date: python tools/grader_report.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())

"""One exercise examined: its tests on somebody's answer, and a diagnosis where they fail.

This runs learners' code, so it runs in the worker's process (see `grading`).
"""

from __future__ import annotations

import time
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tiny_transformer.course.answers import (
    NotTheirsError,
    answer_to,
    check_is_theirs,
    installed,
    module_of,
)
from tiny_transformer.course.catalogue import Exercise, Module
from tiny_transformer.course.content import SOLUTIONS, course_folder
from tiny_transformer.course.diagnosis import Remembered, diagnose
from tiny_transformer.course.expect import Mismatch
from tiny_transformer.course.guard import Guard
from tiny_transformer.course.verdict import Diagnosis, Verdict
from tiny_transformer.course.wrong_answers import load_tests, load_wrong_answers
from tiny_transformer.runtime.random_state import forked_rng

Test = Callable[[], Any]
_MOST_TEXT = 2000


def examine(
    exercise: Exercise,
    module: Module,
    folder: Path,
    *,
    theirs: bool = True,
    remembered: Remembered | None = None,
) -> Verdict:
    """Run an exercise's tests on the answers that are installed.

    Args:
        exercise: which.
        module: that has it.
        folder: the installed answers' files.
        theirs: also ask that the answer stands in that folder; the solutions' and mutants' do not.
        remembered: what known wrong answers did, for many examinations of one exercise.
    """
    start = time.perf_counter()
    try:
        verdict = _examine(exercise, module, folder, theirs, remembered)
    finally:
        _guard.restore()
    return Verdict(**{**vars(verdict), "seconds": time.perf_counter() - start})


def _examine(
    exercise: Exercise,
    module: Module,
    folder: Path,
    theirs: bool,
    remembered: Remembered | None,
) -> Verdict:
    try:
        answer_to(exercise)
        changed = _changed_by_import(exercise)
        if theirs:
            check_is_theirs(exercise, folder)
        tests = tests_of(exercise, load_tests(module, exercise.prefix))
    except NotTheirsError as error:
        return Verdict(exercise.id, "not theirs", message=str(error))
    except (ModuleNotFoundError, AttributeError) as error:
        if not _is_about(error, exercise):
            return _raised(exercise, error, folder, "is imported")
        return Verdict(
            exercise.id,
            "missing",
            message=f"{exercise.file} has no {exercise.function}. `tiny course reset "
            f"{exercise.id}` brings the stub back.",
        )
    except BaseException as error:
        return _raised(exercise, error, folder, "is imported")
    failed: Verdict | None = None
    n_passed = 0
    for test in tests:
        verdict = _run(exercise, test, folder)
        if verdict is None:
            n_passed += 1
        elif failed is None:
            failed = verdict
            if verdict.status in ("not attempted", "blocked"):
                break
    if changed and (failed is None or failed.status in ("wrong", "raised")):
        failed, n_passed = _meddles(exercise, changed), 0
    if failed is None:
        return Verdict(exercise.id, "passed", n_passed, len(tests))
    found = None
    if failed.status in ("wrong", "raised") and not changed:
        found = _diagnose(exercise, module, remembered)
    return Verdict(
        **{**vars(failed), "n_passed": n_passed, "n_tests": len(tests), "diagnosis": found}
    )


_guard = Guard()  # made before any learner's code is imported


def _changed_by_import(exercise: Exercise) -> str:
    """Return what the learner's file changed in PyTorch; it is put back, and remembered."""
    answers = module_of(exercise)
    changed = _guard.restore() or getattr(answers, "__changes__", "")
    answers.__changes__ = changed  # pyright: ignore[reportAttributeAccessIssue]
    return changed


def _meddles(exercise: Exercise, changed: str) -> Verdict:
    return Verdict(
        exercise.id,
        "wrong",
        test="leaves PyTorch as it is",
        message=f"Your code changes {changed}, which every other part and the tests use as well. "
        "Give what is yours a name of its own.",
    )


def tests_of(exercise: Exercise, modules: list[types.ModuleType]) -> list[Test]:
    """Return the exercise's tests, in the order of their files; there is at least one."""
    found = [
        value
        for module in modules
        for name, value in vars(module).items()
        if name.startswith(exercise.prefix) and callable(value)
    ]
    if not found:
        raise LookupError(f"no test begins with {exercise.prefix}")
    return found


def promise(test: Test) -> str:
    """Return what a test asks, in words: its name after the double underscore.

    An `s` by itself is the end of a genitive: `keeps_the_table_s_numbers`.
    """
    words = test.__name__.split("__", 1)[1].replace("_", " ")
    return words.replace(" s ", "'s ")


def _run(exercise: Exercise, test: Test, folder: Path) -> Verdict | None:
    """Run one test; return None if it passes."""
    verdict = _outcome(exercise, test, folder)
    changed = _guard.restore()
    if changed and (verdict is None or verdict.status in ("wrong", "raised")):
        return _meddles(exercise, changed)
    return verdict


def _outcome(exercise: Exercise, test: Test, folder: Path) -> Verdict | None:
    try:
        with forked_rng(0):
            test()
    except Mismatch as error:
        text = _short(str(error))
        return Verdict(
            exercise.id, "wrong", test=promise(test), message=text, picture=error.picture
        )
    except NotImplementedError as error:
        verdict = _unfinished(exercise, error, folder)
        return verdict or _raised(exercise, error, folder, promise(test))
    except BaseException as error:
        return _raised(exercise, error, folder, promise(test))
    return None


def _unfinished(exercise: Exercise, error: NotImplementedError, folder: Path) -> Verdict | None:
    """Return a verdict if a stub raised: this exercise's, or one that it uses."""
    names = _their_functions(error, folder)
    if not names:
        return None
    file, function = names[-1]
    if (file, function) == (exercise.file, exercise.function):
        return Verdict(exercise.id, "not attempted")
    return Verdict(
        exercise.id,
        "blocked",
        message=f"It uses {function} of {file}, which is not written yet: do that first.",
    )


def _their_functions(error: BaseException, folder: Path) -> list[tuple[str, str]]:
    """Return file and function or class of the learner's frames, the outermost first."""
    inside, found = str(folder.resolve()), []
    for frame, _ in traceback.walk_tb(error.__traceback__):
        path = Path(frame.f_code.co_filename).resolve()
        if str(path).startswith(inside):
            found.append((path.name, frame.f_code.co_qualname.split(".")[0]))
    return found


def _raised(exercise: Exercise, error: BaseException, folder: Path, test: str) -> Verdict:
    """Tell of an exception: its kind, its text, and the learner's line."""
    where = ""
    if isinstance(error, SyntaxError) and error.filename:
        where = f"{Path(error.filename).name}, line {error.lineno}"
        text = f"{type(error).__name__}: {error.msg}"
    else:
        frames = _their_frames(error, folder)
        if frames:
            where = f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}"
        text = f"{type(error).__name__}: {_text_of(error)}{_remedy(error, folder)}"
    line = _line(folder, where)
    where += f": {line}" if line else ""
    return Verdict(exercise.id, "raised", test=test, message=_short(text), where=where)


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # an exception class of the learner's, whose text cannot be made
        return "(its text cannot be made)"


def _short(text: str) -> str:
    return text if len(text) <= _MOST_TEXT else text[:_MOST_TEXT] + " ..."


def _remedy(error: BaseException, folder: Path) -> str:
    name = error.name if isinstance(error, ModuleNotFoundError) else None
    if name and (folder / f"{name}.py").is_file():
        return (
            f". Your files are one package: write `from my_transformer import {name}` for "
            f"`import {name}`, and `from my_transformer.{name} import ...` for "
            f"`from {name} import ...`."
        )
    return ""


def _line(folder: Path, where: str) -> str:
    if not where:
        return ""
    file, _, number = where.partition(", line ")
    if not (folder / file).is_file():
        return ""
    lines = (folder / file).read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[int(number) - 1].strip() if number.isdigit() and int(number) <= len(lines) else ""


def _their_frames(error: BaseException, folder: Path) -> list[traceback.FrameSummary]:
    inside = str(folder.resolve())
    frames = traceback.extract_tb(error.__traceback__)
    return [frame for frame in frames if str(Path(frame.filename).resolve()).startswith(inside)]


def _is_about(error: Exception, exercise: Exercise) -> bool:
    name = getattr(error, "name", "") or ""
    return name == exercise.function or name.endswith("." + exercise.file.removesuffix(".py"))


def _diagnose(
    exercise: Exercise, module: Module, remembered: Remembered | None
) -> Diagnosis | None:
    """Compare the installed answer with the known wrong ones, all built on the solutions."""
    answer = answer_to(exercise)
    with installed(course_folder() / SOLUTIONS):
        known = load_wrong_answers(module, exercise.function)
        if exercise.function not in known.probes:
            return None
        reference = answer_to(exercise)
        probes = known.probes[exercise.function]
        mutants = known.mutants.get(exercise.function, [])
        return diagnose(answer, reference, mutants, probes, remembered)

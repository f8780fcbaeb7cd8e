"""The sections of a validation: each runs checks and tells what became of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tools.validation import checklist, links
from tools.validation.chapters import run_chapters, with_foundations
from tools.validation.checks import ROOT, load_chapters
from tools.validation.report import Report, Result

_PAGE = re.compile(r"(pass|fail) +([\d.]+) s +(.+)")  # a line of tools/notebooks.py
_OUTER_MAKE = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"}


@dataclass(frozen=True)
class Settings:
    """What was asked for.

    Attributes:
        bounded: leave out what `make test` runs, and start commands from one Python.
        jobs: commands at a time.
        chapters: of the command line; none takes all.
    """

    bounded: bool = False
    jobs: int = 2
    chapters: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """A part of the validation.

    Attributes:
        about: what it checks.
        run: does so.
        bounded: `make test` has not done it, so that the bounded form does.
    """

    about: str
    run: Callable[[Settings, Report], None] = field(repr=False)
    bounded: bool = False


def _job(name: str, title: str, command: Sequence[str], *, shown: bool = False) -> Result:
    """Run a program of the repository; its exit status decides.

    Args:
        name: of the section.
        title: of the result.
        command: the program and its arguments.
        shown: let it write to the terminal; else its output is told where it fails.
    """
    variables = {k: v for k, v in os.environ.items() if k not in _OUTER_MAKE}
    began = time.perf_counter()
    try:
        done = subprocess.run(
            list(command),
            cwd=ROOT,
            env=variables,
            text=True,
            stdout=None if shown else subprocess.PIPE,
            stderr=None if shown else subprocess.STDOUT,
            check=False,
        )
    except OSError as error:
        return Result(name, title, 0.0, f"{command[0]} cannot be started: {error.strerror}")
    seconds = time.perf_counter() - began
    problem = ""
    if done.returncode:
        problem = f"$ {' '.join(map(str, command))}\nexit status {done.returncode}"
        problem += f"\n{(done.stdout or '').rstrip()}" if not shown else ""
    return Result(name, title, seconds, problem)


def _python(*words: str) -> list[str]:
    return [sys.executable, *words]


def lint(settings: Settings, report: Report) -> None:
    """Style, docstrings, types and shell scripts."""
    report.tell(_job("lint", "make lint", ["make", "--no-print-directory", "lint"], shown=True))


def tests(settings: Settings, report: Report) -> None:
    """The whole suite, with the coverage of each room."""
    report.tell(_job("tests", "make test", ["make", "--no-print-directory", "test"], shown=True))


def commands(settings: Settings, report: Report) -> None:
    """Every command as a user types it."""
    chapters = load_chapters()
    if settings.chapters:
        chapters = with_foundations(settings.chapters, chapters)
    # macOS has libraries that cannot be forked.
    forked = settings.bounded and sys.platform == "linux"
    run_chapters(chapters, settings.jobs, report.tell, forked=forked)


def docs(settings: Settings, report: Report) -> None:
    """Links, and pages that are made from something else."""
    for page in links.pages(ROOT):
        began = time.perf_counter()
        broken = links.broken_links(page, ROOT)
        problem = f"these lead to nothing: {', '.join(broken)}" if broken else ""
        title = f"links of {page.relative_to(ROOT).as_posix()}"
        report.tell(Result("docs", title, time.perf_counter() - began, problem))
    began = time.perf_counter()
    problem = "" if checklist_is_current() else (
        f"{checklist.PAGE.name} is out of date: python tools/validate.py --write-checklist"
    )  # fmt: skip
    title = "docs/cli-checklist.md is what the checks say"
    report.tell(Result("docs", title, time.perf_counter() - began, problem))
    made = {
        "docs/status.md is what the tests say": ("tools/status.py", "--check"),
        "requirements.txt is what the pins say": ("tools/pins.py", "requirements", "--check"),
        "the notebooks are what their pages make": ("tools/notebooks.py", "check"),
        "docs/scaling.md has what its formulas give": ("tools/scaling.py", "--check"),
    }
    for title, words in made.items():
        report.tell(_job("docs", title, _python(*words)))
    if not settings.bounded:
        words = ("-m", "pytest", "-q", "-n0", "tests/docs")
        report.tell(_job("docs", "the examples and figures of the pages", _python(*words)))


def checklist_is_current() -> bool:
    """Return whether the page of the checks is what they say."""
    page = checklist.PAGE
    return page.is_file() and page.read_text("utf-8") == checklist.render(load_chapters())


def notebooks(settings: Settings, report: Report) -> None:
    """Each page of the course with code, in a kernel of its own."""
    process = subprocess.Popen(
        _python("tools/notebooks.py", "run"),
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    told: list[tuple[str, float, str, list[str]]] = []
    other = []
    for line in process.stdout:
        found = _PAGE.match(line)
        if found:
            _tell_page(told, report)
            told.append((found[1], float(found[2]), found[3].strip(), []))
        elif told and line.startswith(" "):
            told[-1][3].append(line.strip())
        else:
            other.append(line.rstrip())
    _tell_page(told, report)
    status = process.wait()
    if status and not any(verdict == "fail" for verdict, *_ in told):
        problem = "\n".join([f"exit status {status}", *other])
        report.tell(Result("notebooks", "tools/notebooks.py run", 0.0, problem))


def _tell_page(told: list[tuple[str, float, str, list[str]]], report: Report) -> None:
    """Tell the last page, whose lines have all been read."""
    if told:
        verdict, seconds, page, lines = told[-1]
        problem = "\n".join(lines) or "it failed" if verdict == "fail" else ""
        report.tell(Result("notebooks", page, seconds, problem))


def exercises(settings: Settings, report: Report) -> None:
    """Every stub of the course fails as one that is not written, and every solution passes."""
    from tiny_transformer.course.catalogue import load_catalogue
    from tiny_transformer.course.content import SOLUTIONS, STUBS, course_folder
    from tiny_transformer.course.grading import Grader
    from tiny_transformer.course.verdict import Verdict

    def telling(what: str, wanted: str) -> Callable[[Verdict], None]:
        def tell(verdict: Verdict) -> None:
            problem = ""
            if verdict.status != wanted:
                problem = f"it is {verdict.status}: {verdict.test} {verdict.message}".rstrip(" :")
            title = f"the {what} of {verdict.exercise} is {wanted}"
            report.tell(Result("exercises", title, verdict.seconds, problem))

        return tell

    every = list(load_catalogue())
    with Grader() as grader:
        stubs, solutions = course_folder() / STUBS, course_folder() / SOLUTIONS
        grader.grade(stubs, every, on_verdict=telling("stub", "not attempted"))
        # A solution may be the package's own function, which no learner may hand in.
        tell = telling("solution", "passed")
        grader.grade(solutions, every, theirs=False, on_verdict=tell)


SECTIONS = {
    "lint": Section("style, docstrings, types and shell scripts", lint),
    "commands": Section("every command, as a user types it", commands, bounded=True),
    "docs": Section("links, and pages that are made from something else", docs, bounded=True),
    "notebooks": Section(
        "the course's pages, each run from top to bottom", notebooks, bounded=True
    ),
    "exercises": Section("every stub fails, and every solution passes", exercises),
    "tests": Section("the whole suite, with the coverage of each room", tests),
}
"""In the order in which they are run: what fails soonest comes first."""


def run_section(name: str, settings: Settings, report: Report, section: Section) -> None:
    """Run a section, and close it whatever happens; an exception of its own is a failure."""
    report.begin(name, section.about)
    try:
        section.run(settings, report)
    except Exception as error:  # the other sections are run all the same
        report.tell(Result(name, "the section runs", 0.0, f"{type(error).__name__}: {error}"))
    report.end(name)

"""Check everything, report each check with its time, and fail if anything fails.

    python tools/validate.py                        all of it, as `make validate` does
    python tools/validate.py --bounded              what `make test` has not run, in four minutes
    python tools/validate.py --section commands     one section; may be repeated
    python tools/validate.py --chapter train        one chapter of the commands
    python tools/validate.py --write-checklist      write docs/cli-checklist.md

The commands that are checked stand in `tools/cli_checks.yaml`. The exit status is 0 where all
passed, 1 where something failed, and 2 where a name is not known.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `tools` itself

from tools.validation import checklist
from tools.validation.checks import ChecksError, load_chapters
from tools.validation.report import Report
from tools.validation.sections import SECTIONS, Section, Settings, run_section

from tiny_transformer.runtime.errors import suggest

BUDGET = 240.0
"""Seconds that the bounded form should take on two cores."""


def main(arguments: Sequence[str] | None = None, sections: Mapping[str, Section] = SECTIONS) -> int:
    """Run what is asked for; return 0, 1 where something failed, or 2 for an unknown name."""
    options = _parser(sections).parse_args(arguments)
    try:
        chapters = load_chapters()
    except ChecksError as error:
        return _complain(str(error))
    if options.write_checklist:
        checklist.PAGE.write_text(checklist.render(chapters), encoding="utf-8")
        return 0
    for name in options.section:
        if name not in sections:
            return _complain(f"{name!r} is not a section. {suggest(name, sections)}")
    if options.jobs < 1:
        return _complain(f"--jobs is {options.jobs}; it must be at least 1.")
    names = [chapter.name for chapter in chapters]
    for name in options.chapter:
        if name not in names:
            return _complain(f"{name!r} is not a chapter. {suggest(name, names)}")
    chosen = options.section or (["commands"] if options.chapter else [])
    if not chosen:
        chosen = [n for n, section in sections.items() if section.bounded or not options.bounded]
    settings = Settings(options.bounded, options.jobs, tuple(options.chapter))
    return _run(chosen, settings, sections)


def _run(chosen: Sequence[str], settings: Settings, sections: Mapping[str, Section]) -> int:
    report = Report()
    began = time.perf_counter()
    try:
        for name in dict.fromkeys(chosen):
            run_section(name, settings, report, sections[name])
    except KeyboardInterrupt:
        print("validate: interrupted", file=sys.stderr)
        return 130
    print(f"\n{report.table()}")
    if settings.bounded:
        took = time.perf_counter() - began
        print(f"bounded: {took:.0f} s of a budget of {BUDGET:.0f} s")
    failed = report.failed()
    for result in failed:
        print(f"failed: {result.section}, {result.title}")
    print("validate: failed" if failed else "validate: all is well", flush=True)
    return 1 if failed else 0


def _complain(message: str) -> int:
    print(f"validate: {message}", file=sys.stderr)
    return 2


def _parser(sections: Mapping[str, Section]) -> argparse.ArgumentParser:
    lines = "\n".join(f"  {name:<10}  {section.about}" for name, section in sections.items())
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        epilog=f"sections:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--section", action="append", default=[], metavar="NAME", help="may be repeated"
    )
    parser.add_argument(
        "--chapter", action="append", default=[], metavar="NAME", help="of the commands"
    )
    parser.add_argument(
        "--bounded", action="store_true", help="leave out what make test has run already"
    )
    parser.add_argument(
        "--jobs", type=int, default=min(2, os.cpu_count() or 1), metavar="N",
        help="commands at a time (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--write-checklist", action="store_true", help="write docs/cli-checklist.md, run nothing"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""`tiny course bug-hunt`: a model with one bug, evidence, and a fix that is checked."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro
from rich import box
from rich.table import Table
from rich.text import Text

from tiny_transformer.cli.course_check import NOT_PASSED
from tiny_transformer.cli.course_options import Place, console, warn
from tiny_transformer.cli.course_show import show_output
from tiny_transformer.course.content import CourseError
from tiny_transformer.runtime.errors import suggest

if TYPE_CHECKING:
    from tiny_transformer.course.hunt import Hunt

_ACTIONS = ("list", "check", "hint", "give-up")
_N_HINTS = 3


@dataclass(frozen=True)
class BugHunt(Place):
    """Find the one bug in a model, from its loss curve, its attention and its texts."""

    what: Annotated[
        str, tyro.conf.Positional, tyro.conf.arg(metavar="[list|check|hint|give-up]")
    ] = "list"
    """list, check, hint or give-up; or a hunt's name, to begin it."""
    hunt_name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")] = None
    """The hunt."""

    def run(self) -> int:
        """Do it; return the exit status, 1 where a check does not pass."""
        from tiny_transformer.course.hunt import find_hunt, load_hunts

        if self.what == "list":
            return self._list()
        if self.what not in _ACTIONS:
            if self.what not in load_hunts():
                names = [*load_hunts(), *_ACTIONS]
                raise CourseError(f"{self.what!r} is not a bug hunt. {suggest(self.what, names)}")
            if self.hunt_name is not None:
                near = suggest(self.hunt_name, _ACTIONS)
                raise CourseError(
                    f"What is to be done comes first, as in: tiny course bug-hunt check "
                    f"{self.what}. {near}"
                )
            return self._begin(find_hunt(self.what))
        if self.hunt_name is None:
            raise CourseError(f"Which hunt? tiny course bug-hunt {self.what} NAME. {_names()}")
        actions: dict[str, Callable[[Hunt], int]] = {
            "check": self._check,
            "hint": self._hint,
            "give-up": self._give_up,
        }
        return actions[self.what](find_hunt(self.hunt_name))

    def _list(self) -> int:
        from tiny_transformer.course.hunt import hunting_ground, load_hunts, read_record

        known = read_record(self.folder)
        table = Table("hunt", "", "difficulty", "minutes", "state", box=box.SIMPLE_HEAD)
        for hunt in load_hunts().values():
            entry = known.get(hunt.name, {})
            begun = hunting_ground(hunt, self.folder).exists()
            state = "begun" if begun else ""
            if entry.get("solved_at"):
                state = "solved" + (" (given up before)" if entry.get("gave_up") else "")
            elif entry.get("gave_up"):
                state = "given up"
            table.add_row(hunt.name, hunt.title, hunt.difficulty, str(hunt.minutes), state)
        out = console()
        out.print(table)
        out.print("Begin one: tiny course bug-hunt NAME")
        return 0

    def _begin(self, hunt: Hunt) -> int:
        from tiny_transformer.course.hunt import begin_hunt, hunting_ground

        new = begin_hunt(hunt, self.folder)
        ground = hunting_ground(hunt, self.folder)
        out = console()
        out.print(Text(f"{hunt.title} ({hunt.difficulty}, {hunt.minutes} minutes)", style="bold"))
        out.print(f"\n{hunt.story}\n")
        out.print("The evidence, from short trainings of this model:")
        for path in hunt.shown():
            out.print(f"  {ground / path.name}", soft_wrap=True)
        out.print(
            f"\nThe model's files are in {ground}. One of them has one bug; the rest is as it "
            "should be. Read, think, mend it, and type:\n"
            f"  tiny course bug-hunt check {hunt.name}\n"
            f"  tiny course bug-hunt hint {hunt.name}",
            soft_wrap=True,
        )
        if not new:
            out.print("(The folder was there already; nothing in it was changed.)")
        return 0

    def _check(self, hunt: Hunt) -> int:
        from tiny_transformer.course.grading import Grader
        from tiny_transformer.course.hunt import hunting_ground, read_record, record

        ground = hunting_ground(hunt, self.folder)
        if not ground.is_dir():
            raise CourseError(f"It is not begun yet: tiny course bug-hunt {hunt.name}")
        with Grader() as grader:
            report = grader.grade_hunt(ground, hunt)
        verdict = report.verdicts[0]
        out = console()
        if verdict.passed:
            out.print(Text(f"✓ {hunt.name}: found and mended.", style="green"))
            _explain(hunt)
            if not read_record(self.folder).get(hunt.name, {}).get("solved_at"):
                now = datetime.datetime.now().isoformat(timespec="seconds")
                record(self.folder, hunt, {"solved_at": now})
            return 0
        out.print(Text(f"✗ {hunt.name} is not mended yet", style="bold red"))
        if verdict.test:
            out.print(f"What does not hold: {verdict.test}.", soft_wrap=True)
        out.print(verdict.message, soft_wrap=True)
        if verdict.where:
            out.print(f"at {verdict.where}", soft_wrap=True)
        if verdict.picture:
            out.print(f"\n{verdict.picture}", soft_wrap=True)
        show_output(out, report.output)
        out.print(f"A hint: tiny course bug-hunt hint {hunt.name}")
        return NOT_PASSED

    def _hint(self, hunt: Hunt) -> int:
        from tiny_transformer.course.hunt import read_record, record

        seen = read_record(self.folder).get(hunt.name, {}).get("hints", 0)
        shown = min(seen + 1, _N_HINTS) if type(seen) is int and seen >= 0 else 1
        record(self.folder, hunt, {"hints": shown})
        out = console()
        for number, hint in enumerate(hunt.hints[:shown], start=1):
            out.print(f"Hint {number} of {_N_HINTS}: {hint}")
        if shown == _N_HINTS:
            out.print(
                f"That was the last. To see the bug: tiny course bug-hunt give-up {hunt.name}"
            )
        return 0

    def _give_up(self, hunt: Hunt) -> int:
        from tiny_transformer.course.hunt import record

        record(self.folder, hunt, {"gave_up": True})
        out = console()
        out.print(f"The bug was in {hunt.file}. Instead of\n")
        out.print(Text(hunt.old.strip("\n"), style="green"))
        out.print("\nthere stood\n")
        out.print(Text(hunt.new.strip("\n"), style="red"))
        _explain(hunt)
        warn(f"nothing in your files was changed. Mend it: tiny course bug-hunt check {hunt.name}")
        return 0


def _explain(hunt: Hunt) -> None:
    out = console()
    out.print(f"\n{hunt.explanation}")


def _names() -> str:
    from tiny_transformer.course.hunt import load_hunts

    return f"There are: {', '.join(load_hunts())}."

"""`tiny course watch`: checks whenever a file is saved; keys for hints, the list and more.

In a terminal, keys work without Enter, and the terminal is put back as it was, however the
command ends. Without one, lines are printed plainly, and keys may come through a pipe.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType

from rich.console import Console
from rich.text import Text

from tiny_transformer.cli.course_list import show_list
from tiny_transformer.cli.course_options import Place, console
from tiny_transformer.cli.course_show import show_hints, show_output, show_verdict
from tiny_transformer.course.catalogue import Catalogue, Exercise
from tiny_transformer.course.grading import Grader
from tiny_transformer.course.progress import Progress
from tiny_transformer.course.verdict import Verdict
from tiny_transformer.course.watching import KEYS, Watcher


@dataclass(frozen=True)
class Watch(Place):
    """Check whenever you save, and show what is next; q ends it."""

    def run(self) -> int:
        """Watch until q or Ctrl-C."""
        screen = Terminal(console(), self.catalogue, self.progress)
        with keys() as wait, Grader(spare=True) as grader:
            Watcher(self.folder, self.catalogue, self.progress, grader, screen).run(wait)
        return 0


class Terminal:
    """Shows what the loop tells.

    Args:
        out: where to.
        catalogue: of all exercises.
        progress: the learner's record.
    """

    def __init__(self, out: Console, catalogue: Catalogue, progress: Progress) -> None:
        self._out = out
        self._catalogue = catalogue
        self._progress = progress

    def checking(self, exercises: Sequence[Exercise]) -> None:
        """Clear the terminal, and name what is checked."""
        if self._out.is_terminal:
            self._out.clear()
            self._out.print(Text(KEYS, style="dim"))
        names = ", ".join(exercise.id for exercise in exercises)
        self._out.print(Text(f"checking {names} ...", style="dim"))

    def verdict(self, verdict: Verdict) -> None:
        """Show a verdict."""
        exercise = self._catalogue.exercise(verdict.exercise)
        needs = self._progress.blocked_by(exercise, self._catalogue)
        show_verdict(self._out, exercise, verdict, needs)

    def printed(self, output: str) -> None:
        """Show what the learner's code printed."""
        show_output(self._out, output)

    def hint(self, exercise: Exercise, shown: int) -> None:
        """Show hints."""
        show_hints(self._out, exercise, shown)

    def progress(self) -> None:
        """Show the list of exercises."""
        show_list(self._out, self._catalogue, self._progress)

    def say(self, text: str) -> None:
        """Print a sentence."""
        self._out.print(text, soft_wrap=True)


@contextlib.contextmanager
def keys() -> Iterator[Callable[[float], str]]:
    """Yield a function that waits up to so many seconds for keys and returns them.

    SIGTERM is taken as Ctrl-C, so that the terminal is put back then too.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with _cbreak(sys.stdin.fileno()) if sys.stdin.isatty() else contextlib.nullcontext():
            yield _reader(sys.stdin.fileno())
    finally:
        signal.signal(signal.SIGTERM, before)


def _reader(descriptor: int) -> Callable[[float], str]:
    is_open = True

    def wait(seconds: float) -> str:
        nonlocal is_open
        if not is_open:
            time.sleep(seconds)
            return ""
        if not select.select([descriptor], [], [], seconds)[0]:
            return ""
        typed = os.read(descriptor, 1024)
        is_open = bool(typed)
        return typed.decode("utf-8", "replace")

    return wait


@contextlib.contextmanager
def _cbreak(descriptor: int) -> Iterator[None]:
    """Let keys come at once and unseen; the terminal is as it was afterwards."""
    import termios
    import tty

    before = termios.tcgetattr(descriptor)

    def again(number: int, frame: FrameType | None) -> None:
        tty.setcbreak(descriptor)  # the shell's own mode was set while this was stopped

    old = signal.signal(signal.SIGCONT, again)
    try:
        tty.setcbreak(descriptor)
        yield
    finally:
        signal.signal(signal.SIGCONT, old)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)

"""The loop behind `tiny course watch`: a file is saved, and its exercise is checked.

It knows neither terminal nor clock: a `Screen` shows what happens, and `wait` returns the
keys that were pressed in the meantime. Files are compared by content, so that two saves in one
second are two; and a content counts once it has stood still for one look, so that a file is
not read while an editor writes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from tiny_transformer.course.catalogue import Catalogue, Exercise
from tiny_transformer.course.grading import Report
from tiny_transformer.course.progress import Progress
from tiny_transformer.course.source_text import fingerprint
from tiny_transformer.course.verdict import Verdict
from tiny_transformer.course.workspace import reset_exercise
from tiny_transformer.runtime.errors import TinyError

POLL = 0.1
"""Seconds between two looks at the files."""
KEYS = "h hint   l list   n next   r reset   q quit   Enter check again"


class Grades(Protocol):
    """What a `Grader` does."""

    def grade(
        self,
        folder: Path,
        exercises: Sequence[Exercise],
        *,
        on_verdict: Callable[[Verdict], None],
    ) -> Report:
        """Examine exercises."""
        ...


class Screen(Protocol):
    """Where the loop shows what happens."""

    def checking(self, exercises: Sequence[Exercise]) -> None:
        """A check begins."""
        ...

    def verdict(self, verdict: Verdict) -> None:
        """One exercise has been examined."""
        ...

    def printed(self, output: str) -> None:
        """What the learner's code printed meanwhile."""
        ...

    def hint(self, exercise: Exercise, shown: int) -> None:
        """Hints up to `shown` are asked for."""
        ...

    def progress(self) -> None:
        """The list of exercises is asked for."""
        ...

    def say(self, text: str) -> None:
        """A sentence."""
        ...


class Watcher:
    """Checks what is saved.

    Args:
        workspace: the learner's folder.
        catalogue: of all exercises.
        progress: the learner's record.
        grader: examines, in a child process.
        screen: shows.
    """

    def __init__(
        self,
        workspace: Path,
        catalogue: Catalogue,
        progress: Progress,
        grader: Grades,
        screen: Screen,
    ) -> None:
        self._workspace = workspace
        self._catalogue = catalogue
        self._progress = progress
        self._grader = grader
        self._screen = screen
        self._seen = self._moving = self._read_files()
        self._prints = {exercise.id: self._fingerprint(exercise) for exercise in catalogue}
        self._confirm = ""  # the exercise whose reset waits for a second r
        self.current = progress.next_exercise(catalogue)

    def run(self, wait: Callable[[float], str]) -> None:
        """Check the next exercise, and then whatever is saved, until q.

        Args:
            wait: waits up to so many seconds for keys, and returns them.
        """
        self.check()
        while True:
            for key in wait(POLL):
                if not self.press(key):
                    return
            self.look()

    def look(self) -> None:
        """Check what was saved since the last look, if it has come to rest."""
        now = self._read_files()
        if now != self._moving:
            self._moving = now
            return
        if now == self._seen:
            return
        changed = {name for name in {*now, *self._seen} if now.get(name) != self._seen.get(name)}
        self._seen = now
        self.check(self._touched(changed))

    def check(self, exercises: Sequence[Exercise] | None = None) -> None:
        """Examine exercises, by default the current one, and move on from what passes."""
        if exercises is None:
            exercises = [] if self.current is None else [self.current]
        if not exercises:
            self._screen.say("Every exercise has passed.")
            return
        self._confirm = ""
        self._screen.checking(exercises)
        verdicts: list[Verdict] = []

        def take(verdict: Verdict) -> None:
            verdicts.append(verdict)
            try:
                self._progress.record(self._catalogue.exercise(verdict.exercise), verdict)
            except TinyError as error:
                self._screen.say(f"Your progress could not be saved. {error}")
            self._screen.verdict(verdict)

        try:
            report = self._grader.grade(self._workspace, exercises, on_verdict=take)
        except TinyError as error:
            self._screen.say(str(error))
            return
        self._screen.printed(report.output)
        failed = [verdict.exercise for verdict in verdicts if not verdict.passed]
        if failed:
            self.current = self._catalogue.exercise(failed[0])
        else:
            self.current = self._progress.next_exercise(self._catalogue, exercises[-1])
            self._announce()

    def press(self, key: str) -> bool:
        """Obey a key; return whether to go on."""
        if key == "q":
            return False
        try:
            self._obey(key)
        except TinyError as error:
            self._screen.say(str(error))
        return True

    def _obey(self, key: str) -> None:
        current = self.current
        if key != "r":
            self._confirm = ""
        if key == "l":
            self._screen.progress()
        elif key in "\r\nc":
            self.check()
        elif current is None:
            self._screen.say("Every exercise has passed.")
        elif key == "h":
            self._screen.hint(current, self._progress.show_hint(current))
        elif key == "n":
            self.current = self._progress.next_exercise(self._catalogue, current)
            self.check()
        elif key == "r":
            self._reset(current)
        else:
            self._screen.say(KEYS)

    def _reset(self, exercise: Exercise) -> None:
        if self._confirm != exercise.id:
            self._confirm = exercise.id
            self._screen.say(
                f"Press r once more to put the stub of {exercise.function} back; a copy of your "
                f"{exercise.file} is kept."
            )
            return
        self._confirm = ""
        copy = reset_exercise(self._workspace, exercise)
        self._progress.update(exercise, passed_at="", source="")
        self._seen = self._moving = self._read_files()
        self._prints[exercise.id] = self._fingerprint(exercise)
        kept = f" Your file as it was: {copy}" if copy else ""
        self._screen.say(f"The stub of {exercise.function} is back.{kept}")

    def _announce(self) -> None:
        if self.current is None:
            self._screen.say("Every exercise has passed.")
            return
        name, minutes = self.current.id, self.current.minutes
        self._screen.say(
            f"Next: {name}, {self.current.title} ({minutes} minutes): write "
            f"{self.current.function} in {self.current.file} and save."
        )

    def _touched(self, changed: set[str]) -> list[Exercise] | None:
        """Return the exercises whose code changed; else the one that is worked at in the file."""
        touched = []
        in_files = [exercise for exercise in self._catalogue if exercise.file in changed]
        for exercise in in_files:
            code = self._fingerprint(exercise)
            if code and code != self._prints[exercise.id]:  # none where the file is not Python
                self._prints[exercise.id] = code
                touched.append(exercise)
        if touched:
            return touched
        if self.current in in_files or not in_files:
            return None
        open_ones = [exercise for exercise in in_files if not self._progress.passed(exercise)]
        return (open_ones or in_files)[:1]

    def _fingerprint(self, exercise: Exercise) -> str:
        return fingerprint(self._workspace / exercise.file, exercise.function)

    def _read_files(self) -> dict[str, bytes]:
        found = {}
        for path in self._workspace.glob("*.py"):
            try:
                found[path.name] = path.read_bytes()
            except OSError:  # it is being replaced
                continue
        return found

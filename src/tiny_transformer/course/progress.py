"""What a learner has done: one small readable JSON file in the workspace.

Exercises that this version of the course does not know are kept as they are, and so is
what a later version wrote about one.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiny_transformer.course.catalogue import Catalogue, Exercise
from tiny_transformer.course.source_text import fingerprint
from tiny_transformer.course.verdict import Verdict
from tiny_transformer.runtime import files

FILE = "progress.json"
N_HINTS = 3


@dataclass(frozen=True)
class Entry:
    """What is known of one exercise.

    Attributes:
        passed_at: when its answer last passed, local time in ISO 8601; `""` if it does not.
        attempts: checks of an answer that was begun.
        hints: how many were shown.
        revealed: the solution was shown before it passed.
        source: a hash of the function's code when it passed.
    """

    passed_at: str = ""
    attempts: int = 0
    hints: int = 0
    revealed: bool = False
    source: str = ""

    @classmethod
    def from_json(cls, value: Any) -> Entry:
        """Read an entry; a field that is missing or of another type has its default."""
        default, given = cls(), value if isinstance(value, dict) else {}
        fields = {f.name: getattr(default, f.name) for f in dataclasses.fields(cls)}
        for name, preset in fields.items():
            if type(given.get(name)) is type(preset) and not _is_negative(given[name]):
                fields[name] = given[name]
        return cls(**fields)


def _is_negative(value: Any) -> bool:
    return isinstance(value, int) and value < 0


class Progress:
    """The record of one workspace.

    Args:
        workspace: its folder; a file that is there is read.
        warn: called with a sentence where the file was damaged and is set aside.

    Attributes:
        aside: where a damaged file was put.
    """

    def __init__(self, workspace: Path, warn: Callable[[str], object] = lambda text: None) -> None:
        self._workspace = workspace
        self._warn = warn
        self.aside: Path | None = None
        self._content: dict[str, Any] = {}
        self._read()

    @property
    def path(self) -> Path:
        """The file."""
        return self._workspace / FILE

    def _read(self) -> None:
        self._content = {"course": "tiny_transformer", "format": 1, "exercises": {}}
        try:
            read = json.loads(self.path.read_bytes())
            if not isinstance(read, dict) or not isinstance(read.get("exercises"), dict):
                raise ValueError("it has no exercises")
        except FileNotFoundError:
            return
        except (ValueError, RecursionError):
            self._set_aside()
            return
        self._content = read

    def _set_aside(self) -> None:
        stamp = datetime.datetime.now().strftime("%Y-%m-%dT%H-%M-%S-%f")
        self.aside = self.path.with_name(f"{FILE}.damaged-{stamp}")
        files.write_bytes(self.aside, self.path.read_bytes())
        self.save()
        self._warn(
            f"{self.path} was damaged and is now {self.aside.name}; a new record begins. "
            "Your answers are untouched: tiny course check --all finds what passes."
        )

    def save(self) -> None:
        """Write the file, whole or not at all."""
        files.write_json(self.path, self._content)

    def entry(self, exercise: Exercise) -> Entry:
        """Return what is known of an exercise."""
        return Entry.from_json(self._content["exercises"].get(exercise.id))

    def update(self, exercise: Exercise, **changes: Any) -> None:
        """Change fields of an exercise's entry and save; what another process wrote is kept."""
        self._read()
        known = self._content["exercises"].get(exercise.id)
        entry = dataclasses.replace(Entry.from_json(known), **changes)
        old = known if isinstance(known, dict) else {}
        self._content["exercises"][exercise.id] = {**old, **dataclasses.asdict(entry)}
        self.save()

    def record(self, exercise: Exercise, verdict: Verdict) -> None:
        """Take in a verdict."""
        begun = verdict.status not in ("not attempted", "blocked", "missing")
        if not begun and not self.passed(exercise):
            return
        changes: dict[str, Any] = {"passed_at": "", "source": ""}
        if verdict.passed:
            now = datetime.datetime.now().isoformat(timespec="seconds")
            changes = {"passed_at": now, "source": self._fingerprint(exercise)}
        self.update(exercise, attempts=self.entry(exercise).attempts + begun, **changes)

    def show_hint(self, exercise: Exercise) -> int:
        """Count one hint more as shown; return how many are, three at most."""
        shown = min(self.entry(exercise).hints + 1, N_HINTS)
        self.update(exercise, hints=shown)
        return shown

    def _fingerprint(self, exercise: Exercise) -> str:
        return fingerprint(self._workspace / exercise.file, exercise.function)

    def passed(self, exercise: Exercise) -> bool:
        """Return whether the last check of an exercise passed."""
        return self.entry(exercise).passed_at != ""

    def changed(self, exercise: Exercise) -> bool:
        """Return whether an answer was changed since it passed."""
        entry = self.entry(exercise)
        return entry.passed_at != "" and entry.source != self._fingerprint(exercise)

    def blocked_by(self, exercise: Exercise, catalogue: Catalogue) -> list[str]:
        """Return the ids of the exercises that must pass before this one and do not."""
        return [name for name in exercise.requires if not self.passed(catalogue.exercise(name))]

    def next_exercise(self, catalogue: Catalogue, after: Exercise | None = None) -> Exercise | None:
        """Return the first exercise that has not passed, extra ones last; None if all have.

        Args:
            catalogue: of all exercises.
            after: begin behind this one, and come round to it last.
        """
        order = list(catalogue)
        if after is not None:
            place = order.index(after) + 1
            order = order[place:] + order[:place]
        order.sort(key=lambda exercise: exercise.extra)
        return next((exercise for exercise in order if not self.passed(exercise)), None)

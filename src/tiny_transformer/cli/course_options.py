"""What the subcommands of `tiny course` share: the workspace, the record, and the console."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from tiny_transformer.course.catalogue import Catalogue, Exercise, load_catalogue
from tiny_transformer.course.content import CourseError
from tiny_transformer.course.progress import Progress
from tiny_transformer.course.workspace import find_workspace

ExerciseName = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="EXERCISE")]
Maybe = Annotated[str | None, tyro.conf.Positional]


def console() -> Console:
    """Return a console for standard output; without a terminal, lines are not cut to 80."""
    return Console(
        width=None if sys.stdout.isatty() else 120, highlight=False, markup=False, emoji=False
    )


def shown(path: Path) -> str:
    """Return a path as one would type it: from the current folder, if it lies inside."""
    here = Path().resolve()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def warn(text: str) -> None:
    """Print a sentence to standard error."""
    print(f"tiny: {text}", file=sys.stderr)


@dataclass(frozen=True)
class Place:
    """Where the learner's files are."""

    workspace: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """The workspace; by default the one that the current folder is in, or just above."""

    @cached_property
    def folder(self) -> Path:
        """The workspace's folder."""
        return find_workspace(self.workspace)

    @cached_property
    def progress(self) -> Progress:
        """The learner's record."""
        return Progress(self.folder, warn)

    @cached_property
    def catalogue(self) -> Catalogue:
        """All exercises."""
        return load_catalogue()

    def exercise(self, name: str | None) -> Exercise:
        """Return the exercise of this name, or the next one.

        Raises:
            CourseError: there is none of this name, or every one has passed.
        """
        if name is not None:
            return self.catalogue.exercise(name)
        found = self.progress.next_exercise(self.catalogue)
        if found is None:
            raise CourseError("Every exercise has passed. Name the one that you mean.")
        return found

"""Where the course's text, exercises and tests lie."""

from __future__ import annotations

import os
from pathlib import Path

from tiny_transformer.runtime.errors import TinyError

STUBS, SOLUTIONS = "my_transformer", "solutions"
"""Folders of the course: what `tiny course init` copies, and the same files answered."""


VARIABLE = "TINY_TRANSFORMER_COURSE"
"""The environment variable that names another course's folder."""


class CourseError(TinyError):
    """A request that the course cannot meet, or content of it that is not sound."""


def course_folder() -> Path:
    """Return the folder of the course: in a wheel beside this file, in a checkout at its root.

    The environment variable `TINY_TRANSFORMER_COURSE` names another one, a teacher's own.

    Raises:
        CourseError: there is none.
    """
    if VARIABLE in os.environ:
        named = Path(os.environ[VARIABLE])
        if named.is_dir():
            return named.resolve()
        raise CourseError(f"{VARIABLE} is {str(named)!r}, which is not a folder. Unset it.")
    inside = Path(__file__).parent / "modules"
    if inside.is_dir():
        return inside
    root = Path(__file__).resolve().parents[3] / "course"
    if root.is_dir():
        return root
    raise CourseError(
        "The course's exercises are not in this installation. Clone the repository and run "
        "make install there."
    )

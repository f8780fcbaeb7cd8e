"""A learner's workspace: a folder of stubs to fill in, beside the record of progress.

What a learner wrote is never overwritten without a copy in `.backups/`.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

from tiny_transformer.course.catalogue import Exercise
from tiny_transformer.course.content import STUBS, CourseError, course_folder
from tiny_transformer.course.progress import FILE, Progress
from tiny_transformer.course.source_text import Source, parse_source, read_source
from tiny_transformer.runtime import files

BACKUPS = ".backups"


@dataclass(frozen=True)
class Setup:
    """What `init` did.

    Attributes:
        folder: the workspace.
        is_new: it was made now.
        added_files: copied.
        added_functions: `file.py: function`, put at the ends of the learner's files.
        problems: files that were left alone because they cannot be read, and why.
    """

    folder: Path
    is_new: bool
    added_files: tuple[str, ...] = ()
    added_functions: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def is_workspace(folder: Path) -> bool:
    """Return whether `tiny course init` has been here."""
    return (folder / FILE).is_file()


def find_workspace(given: str | None = None, start: Path | None = None) -> Path:
    """Return the learner's workspace.

    Args:
        given: the folder, if it was named.
        start: where to look from; the current folder by default. It may be the workspace,
            or a folder inside or just above it, and so may its parents.

    Raises:
        CourseError: there is none, or several could be meant.
    """
    if given is not None:
        folder = Path(given)
        if is_workspace(folder):
            return folder
        raise CourseError(f"{given} is no workspace. Make it one with: tiny course init {given}")
    start = (start or Path()).resolve()
    for folder in (start, *start.parents):
        for candidate in (folder, folder / STUBS):
            if is_workspace(candidate):
                return candidate
    inside = sorted(path.parent for path in start.glob(f"*/{FILE}"))
    if len(inside) == 1:
        return inside[0]
    if inside:
        names = ", ".join(path.name for path in inside)
        raise CourseError(f"There are several workspaces here: {names}. Choose: --workspace NAME")
    raise CourseError(
        f"There is no workspace in {start} or above it. Make one with: tiny course init"
    )


def init_workspace(folder: Path) -> Setup:
    """Make a workspace, or add to one what the course has gained since.

    Files and functions that are there stay as they are.

    Raises:
        CourseError: the folder is the course's own, or is a file.
        StorageError: it cannot be written.
    """
    stubs = stub_files()
    inside = (folder.resolve(), *folder.resolve().parents)
    if course_folder().resolve() in inside:
        raise CourseError(f"{folder} belongs to the course itself. Choose a folder elsewhere.")
    if folder.exists() and not folder.is_dir():
        raise CourseError(f"{folder} is a file. Choose another folder: tiny course init DIR")
    if not folder.exists():
        with files.staged_directory(folder) as staged:
            for path in stubs:
                files.write_bytes(staged / path.name, path.read_bytes())
            Progress(staged).save()
        return Setup(folder, True, added_files=tuple(path.name for path in stubs))
    is_new = not is_workspace(folder)
    added_files, added_functions, problems = [], [], []
    for path in stubs:
        theirs = folder / path.name
        if not theirs.exists():
            files.write_bytes(theirs, path.read_bytes())
            added_files.append(path.name)
            continue
        try:
            names = _add_missing(theirs, read_source(path))
        except CourseError as error:
            problems.append(f"{error} Mend it and type this again.")
            continue
        added_functions += [f"{path.name}: {name}" for name in names]
    if is_new:
        Progress(folder).save()
    return Setup(folder, is_new, tuple(added_files), tuple(added_functions), tuple(problems))


def stub_files() -> list[Path]:
    """Return the files that a workspace begins with."""
    return sorted((course_folder() / STUBS).glob("*.py"))


def _add_missing(path: Path, stubs: Source) -> list[str]:
    """Put the stubs that a file lacks at its end; return their names."""
    theirs = read_source(path)
    missing = [name for name in stubs.definitions() if name not in theirs.names()]
    for name in missing:
        theirs = _placed(theirs, stubs, name)
    if missing:
        back_up(path)
        files.write_bytes(path, "".join(theirs.lines).encode("utf-8"))
    return missing


def _placed(theirs: Source, stubs: Source, name: str) -> Source:
    """Return a learner's file with one stub in its place, and the imports that it needs."""
    stub = stubs.text(name)
    try:
        placed = parse_source(theirs.with_definition(name, stub))
        return parse_source(placed.with_imports_of(stubs, stub))
    except SyntaxError:
        raise CourseError(
            f"The stub of {name} cannot be put in its place: the lines around it belong together."
        ) from None


def back_up(path: Path) -> Path:
    """Copy a file of the workspace into its `.backups`, under the time; return the copy."""
    folder = files.make_directory(path.parent / BACKUPS)
    stamp = datetime.datetime.now().strftime("%Y-%m-%dT%H-%M-%S")
    copy, n = folder / f"{path.name}.{stamp}", 1
    while copy.exists():
        n += 1
        copy = folder / f"{path.name}.{stamp}-{n}"
    files.write_bytes(copy, path.read_bytes())
    return copy


def reset_exercise(workspace: Path, exercise: Exercise) -> Path | None:
    """Put one function's stub back; the rest of its file stays.

    Returns:
        The copy of the file as it was; None if there was no file.

    Raises:
        CourseError: the file is not Python, so that one function cannot be told from another.
    """
    path = workspace / exercise.file
    if not path.exists():
        return reset_file(workspace, exercise)
    stubs = read_source(course_folder() / STUBS / exercise.file)
    try:
        theirs = read_source(path)
    except CourseError as error:
        raise CourseError(
            f"{error} So one function cannot be told from the next. Mend it, or put the whole "
            f"file back (a copy of yours is kept): tiny course reset {exercise.id} --file"
        ) from None
    copy = back_up(path)
    placed = _placed(theirs, stubs, exercise.function)
    files.write_bytes(path, "".join(placed.lines).encode("utf-8"))
    return copy


def reset_file(workspace: Path, exercise: Exercise) -> Path | None:
    """Put the whole file of an exercise back; return the copy of what was there."""
    path = workspace / exercise.file
    copy = back_up(path) if path.exists() else None
    files.write_bytes(path, (course_folder() / STUBS / exercise.file).read_bytes())
    return copy

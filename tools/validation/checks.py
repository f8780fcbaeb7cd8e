"""Checks of the command line, as `tools/cli_checks.yaml` declares them.

A chapter is a list of checks that are run one after another in a folder of its own, which
begins empty or as a copy of the folder that another chapter left.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from tiny_transformer.runtime.errors import suggest

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "tools" / "cli_checks.yaml"
SECONDS = 120.0
"""How long a command may take where its check does not say."""

Json = Literal["", "object", "lines"]
Signal = Literal["INT", "TERM"]


class ChecksError(Exception):
    """The file of the checks is not as it should be; the message says where."""


@dataclass(frozen=True)
class During:
    """What is done to a command while it runs.

    Attributes:
        shows: wait until its output has this text.
        get: then ask the server at the address that it printed for this path.
        post: or send JSON there.
        body: the JSON.
        answer: texts that the answer must have.
        signal: then send this signal.
    """

    shows: str
    signal: Signal
    get: str = ""
    post: str = ""
    body: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    answer: tuple[str, ...] = ()


@dataclass(frozen=True)
class Check:
    """One command line, and what must come of it.

    Whatever it is, there must be no traceback, and nothing in the folder may be new, changed
    or gone but what `makes` names.

    Attributes:
        title: what holds, in words.
        command: as it is typed; there is no shell.
        stdin: typed on standard input.
        write: texts of files that are written before, by their paths.
        copy: files of the repository that are copied before: there to here.
        damage: a file in which a byte is flipped before.
        status: the exit status.
        refused: texts of the one message of a user's mistake. Standard output is empty then,
            and the exit status is 2.
        stdout: texts that standard output must have, whatever breaks its lines.
        stderr: texts that standard error must have.
        absent: texts that neither may have.
        json: standard output is one JSON object or list ("object"), or JSON lines ("lines").
        same_output: title of an earlier check of the chapter with the same standard output.
        makes: paths that are new or changed afterwards, folders with all that is in them; each
            must be there.
        during: what is done while it runs.
        seconds: the longest that it may take.
    """

    title: str
    command: str
    stdin: str = ""
    write: Mapping[str, str] = dataclasses.field(default_factory=dict)
    copy: Mapping[str, str] = dataclasses.field(default_factory=dict)
    damage: str = ""
    status: int = 0
    refused: tuple[str, ...] = ()
    stdout: tuple[str, ...] = ()
    stderr: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    json: Json = ""
    same_output: str = ""
    makes: tuple[str, ...] = ()
    during: During | None = None
    seconds: float = SECONDS

    @property
    def words(self) -> list[str]:
        """The command line, split as a shell would."""
        return shlex.split(self.command)


@dataclass(frozen=True)
class Chapter:
    """Checks that follow one another.

    Attributes:
        name: a word.
        about: what a user does in it.
        checks: in order.
        after: the chapter whose folder it goes on with; empty begins with nothing.
    """

    name: str
    about: str
    checks: tuple[Check, ...]
    after: str = ""


def load_chapters(path: Path = FILE) -> list[Chapter]:
    """Read the declared checks.

    Raises:
        ChecksError: something is missing, misspelt, of the wrong kind, or stands twice.
    """
    try:
        entries = yaml.safe_load(path.read_text("utf-8")) or []
    except yaml.YAMLError as error:
        raise ChecksError(f"{path.name} is not YAML: {error}") from None
    found = [_chapter(entry, path.name) for entry in entries]
    names = [chapter.name for chapter in found]
    for number, chapter in enumerate(found):
        if chapter.name in names[:number]:
            raise ChecksError(f"{path.name}: the chapter {chapter.name} stands there twice")
        if chapter.after and chapter.after not in names[:number]:
            raise ChecksError(
                f"{path.name}: {chapter.name} goes on after {chapter.after!r}, which is no "
                "chapter before it"
            )
    if not found:
        raise ChecksError(f"{path.name} declares no check")
    return found


def _chapter(entry: Any, where: str) -> Chapter:
    fields = _fields(Chapter, entry, where)
    where = f"{where}, {fields['name']}"
    checks = tuple(_check(each, where) for each in entry["checks"] or [])
    if not checks:
        raise ChecksError(f"{where}: it has no check")
    seen: set[str] = set()
    for check in checks:
        if check.title in seen:
            raise ChecksError(f"{where}: {check.title!r} stands there twice")
        if check.same_output and check.same_output not in seen:
            raise ChecksError(f"{where}, {check.title}: no earlier check is {check.same_output!r}")
        seen.add(check.title)
    return Chapter(**{**fields, "checks": checks})


def _check(entry: Any, where: str) -> Check:
    fields = _fields(Check, entry, where)
    where = f"{where}, {fields['title']}"
    for name in ("refused", "stdout", "stderr", "absent", "makes"):
        fields[name] = _texts(fields.get(name, ()), f"{where}: {name}")
    if "during" in fields:
        inner = _fields(During, fields["during"], where)
        inner["answer"] = _texts(inner.get("answer", ()), f"{where}: answer")
        if inner["signal"] not in get_args(Signal):
            raise ChecksError(f"{where}: signal is {inner['signal']!r}, and not INT or TERM")
        fields["during"] = During(**inner)
    if fields["refused"]:
        if "status" in fields or fields["stdout"] or fields["makes"]:
            raise ChecksError(f"{where}: what is refused has no other status, output or files")
        fields["status"] = 2
    if fields.get("json", "") not in get_args(Json):
        raise ChecksError(f"{where}: json is {fields['json']!r}, and not object or lines")
    return Check(**fields)


def _fields(kind: type, entry: Any, where: str) -> dict[str, Any]:
    """Return the entry of a dataclass, with every name known and every needed one there."""
    known = {field.name: field for field in dataclasses.fields(kind)}
    if not isinstance(entry, dict):
        raise ChecksError(f"{where}: an entry is {entry!r}, and not a {kind.__name__.lower()}")
    for name in entry:
        if name not in known:
            raise ChecksError(f"{where}: {name!r} is not known. {suggest(str(name), known)}")
    for name, field in known.items():
        needed = field.default is field.default_factory is dataclasses.MISSING
        if needed and name not in entry:
            raise ChecksError(f"{where}: an entry has no {name}: {entry}")
    return dict(entry)


def _texts(value: Any, where: str) -> tuple[str, ...]:
    """Return one text or a list of them as a tuple."""
    texts = (value,) if isinstance(value, str) else tuple(value)
    if not all(isinstance(text, str) and text for text in texts):
        raise ChecksError(f"{where} is {value!r}, and not a text or a list of texts")
    return texts


def touched(chapters: Sequence[Chapter], commands: Mapping[str, Sequence[str]]) -> dict[str, set]:
    """Return what is checked of each command and subcommand: "help", "used", "refused".

    Args:
        chapters: the checks.
        commands: each command of `tiny`, and the names of its subcommands.

    Returns:
        For `train`, `data list` and so on, the kinds of checks that there are of it. A
        command with subcommands counts by itself too: as `tiny data --help` does.
    """
    names = [*commands, *(f"{name} {sub}" for name, subs in commands.items() for sub in subs)]
    kinds: dict[str, set[str]] = {name: set() for name in names}
    for check in (check for chapter in chapters for check in chapter.checks):
        program, *words = check.words
        if program != "tiny" or not words or words[0] not in commands:
            continue
        name = words[0]
        if len(words) > 1 and words[1] in commands[name]:
            name = f"{words[0]} {words[1]}"
        help_asked = "--help" in words or "-h" in words
        kinds[name].add("refused" if check.refused else "help" if help_asked else "used")
    return kinds

"""Bug hunts: the model's own source with one bug planted, and only evidence to go by.

A hunt is a folder `course/bug_hunts/NAME` with `bug.yaml`, which names the line that is
changed, and the evidence, which `tools/bug_hunts.py` makes from short trainings of the
model with the bug. The source stands once, in the package: a hunt's files are made from it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tiny_transformer import model
from tiny_transformer.config.checks import check
from tiny_transformer.config.loading import read_settings, validate
from tiny_transformer.course.catalogue import Difficulty
from tiny_transformer.course.content import STUBS, CourseError, course_folder
from tiny_transformer.runtime import files
from tiny_transformer.runtime.errors import suggest

FOLDER = "bug_hunts"
RECORD = "record.json"
MANIFEST = "bug.yaml"
MADE_WITH = "made-with.txt"
FILES = (
    "attention.py",
    "dropout.py",
    "dropped_attention.py",
    "embeddings.py",
    "initialization.py",
    "kv_cache.py",
    "layer_norm.py",
    "loss.py",
    "mlp.py",
    "parts.py",
    "positional.py",
    "transformer.py",
    "transformer_block.py",
)
"""The model's files, all that training and generating needs."""

EVIDENCE = (
    *("losses", "attention", "samples", "cache", "repeats", "depth"),
    *("counts", "time", "next", "company", "positions", "start"),
)
"""What the tool can show of a bug."""


@dataclass(frozen=True)
class Hunt:
    """A planted bug.

    Attributes:
        title: as a heading; it does not give the bug away.
        difficulty: easy, medium, hard or very hard.
        minutes: how long it takes.
        story: what somebody saw.
        file: the file that is changed.
        old: the text there, once and exactly.
        new: what stands there in the hunt.
        hints: three, each more concrete.
        explanation: what the bug was, and how its traces follow from it.
        evidence: what is shown, of `EVIDENCE`.
        settings: of the trainings that the evidence is from, dotted names to values.
        depths: numbers of layers, where models of several depths are the evidence.
        name: the hunt's folder.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    title: str
    difficulty: Difficulty
    minutes: int
    story: str
    file: str
    old: str
    new: str
    hints: tuple[str, str, str]
    explanation: str
    evidence: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    depths: tuple[int, ...] = (1, 2, 4, 6)
    name: str = ""

    def __post_init__(self) -> None:
        check(self.file in FILES, f"{self.file!r} is not a file of the model.")
        check(self.old != self.new, "old and new are the same text.")
        for kind in self.evidence:
            check(kind in EVIDENCE, f"{kind!r} is no evidence. {suggest(kind, EVIDENCE)}")

    @property
    def id(self) -> str:
        """What verdicts call it."""
        return self.name

    @property
    def folder(self) -> Path:
        """Where its manifest and its evidence lie."""
        return course_folder() / FOLDER / self.name

    def shown(self) -> list[Path]:
        """Return the files of the evidence."""
        kinds = (".png", ".svg", ".txt")
        found = (path for path in self.folder.iterdir() if path.suffix in kinds)
        return sorted(path for path in found if path.name != MADE_WITH)

    def sources(self) -> dict[str, str]:
        """Return the model's files with the bug in them, by name.

        Raises:
            CourseError: the manifest's text does not stand exactly once in its file.
        """
        texts = model_sources()
        count = texts[self.file].count(self.old)
        if count != 1:
            raise CourseError(
                f"The bug {self.name} cannot be planted: its text stands {count} times in "
                f"{self.file}, and must stand there once."
            )
        texts[self.file] = texts[self.file].replace(self.old, self.new)
        return texts


def model_sources() -> dict[str, str]:
    """Return the model's files as a package `my_transformer`, right as they are."""
    folder = Path(str(model.__file__)).parent
    prefix, own = "tiny_transformer.model.", f"{STUBS}."
    return {
        name: (folder / name).read_text(encoding="utf-8").replace(prefix, own) for name in FILES
    }


@functools.cache
def load_hunts() -> dict[str, Hunt]:
    """Return all hunts by name, in the order of their difficulty.

    Raises:
        ConfigError: a manifest is damaged, or a field is missing or has another type.
    """
    levels = ("easy", "medium", "hard", "very hard")
    found = []
    for path in sorted((course_folder() / FOLDER).glob(f"*/{MANIFEST}")):
        settings = read_settings(path)
        where = f"{path.parent.name}/{MANIFEST}"
        found.append(validate(Hunt, {**settings, "name": path.parent.name}, where=where))
    found.sort(key=lambda hunt: (levels.index(hunt.difficulty), hunt.name))
    return {hunt.name: hunt for hunt in found}


def find_hunt(name: str) -> Hunt:
    """Return the hunt of this name; raise `CourseError` with the nearest if there is none."""
    hunts = load_hunts()
    if name not in hunts:
        raise CourseError(f"{name!r} is not a bug hunt. {suggest(name, hunts)}")
    return hunts[name]


def hunting_ground(hunt: Hunt, workspace: Path) -> Path:
    """Return the folder in which a learner hunts."""
    return workspace / FOLDER / hunt.name


def begin_hunt(hunt: Hunt, workspace: Path) -> bool:
    """Put the model with the bug, and the evidence, into the workspace.

    Returns:
        Whether that was done now; what is there already is left as it is.
    """
    ground = hunting_ground(hunt, workspace)
    if ground.exists():
        return False
    with files.staged_directory(ground) as staged:
        for name, text in hunt.sources().items():
            files.write_text(staged / name, text)
        for path in hunt.shown():
            files.write_bytes(staged / path.name, path.read_bytes())
    return True


def read_record(workspace: Path) -> dict[str, dict[str, Any]]:
    """Return what is known of each hunt: `hints`, `solved_at`, `gave_up`."""
    try:
        read = json.loads((workspace / FOLDER / RECORD).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    entries = read.items() if isinstance(read, dict) else ()
    return {str(name): entry for name, entry in entries if isinstance(entry, dict)}


def record(workspace: Path, hunt: Hunt, changes: Mapping[str, Any]) -> None:
    """Keep something of a hunt in the workspace's `bug_hunts/record.json`."""
    known = read_record(workspace)
    known[hunt.name] = {**known.get(hunt.name, {}), **changes}
    files.make_directory(workspace / FOLDER)
    files.write_json(workspace / FOLDER / RECORD, known)

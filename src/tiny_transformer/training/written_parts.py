"""Parts of a model that a user wrote: which, in which files, and what a run keeps of them.

A run records the classes and the hashes of their files, and keeps a copy of the files. The
copy is there to be read. It runs only when a user names its folder, as in
`--parts runs/mine/parts`; a checkpoint is read by the reference's parts otherwise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from tiny_transformer.model.parts import Parts
from tiny_transformer.runtime import files

FOLDER = "parts"
"""Folder inside a run that keeps the files."""


@dataclass(frozen=True)
class WrittenParts(Parts):
    """Parts of which some are a user's own.

    Attributes:
        model: the user's whole model, called as the reference's is; None is the reference's.
        taken: for each part that is the user's `(file, class)`, as in
            `{"mlp": ("mlp.py", "MLP")}`.
        sources: the files' bytes by name, with those that they import from their folder.
        notes: what was found and not taken, and why, for people.
    """

    model: Callable[..., nn.Module] | None = None
    taken: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    sources: Mapping[str, bytes] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def describe_parts(parts: Parts | None) -> list[dict[str, str]]:
    """Return the parts that are a user's own, as JSON-ready values: part, class, file, SHA-256."""
    if not isinstance(parts, WrittenParts):
        return []
    return [
        {"part": part, "class": name, "file": file, "sha256": _digest(parts.sources[file])}
        for part, (file, name) in sorted(parts.taken.items())
    ]


def keep_sources(parts: Parts | None, run: Path) -> None:
    """Write a copy of the user's files into the folder of a new run."""
    if isinstance(parts, WrittenParts) and parts.sources:
        folder = files.make_directory(run / FOLDER)
        for name, source in parts.sources.items():
            files.write_bytes(folder / name, source)


def changed_parts(before: Any, now: list[dict[str, str]]) -> list[str]:
    """Return in words how the parts are others than a run had.

    Args:
        before: what the run recorded, as `describe_parts` gives it; None is no part.
        now: the same of the parts at hand.
    """
    was, is_now = _by_name(before), _by_name(now)
    changes = []
    for part in sorted(was.keys() | is_now.keys()):
        if part not in is_now:
            changes.append(f"the part {part} was {_who(was[part])} and is the reference's now")
        elif part not in was:
            changes.append(f"the part {part} was the reference's and is {_who(is_now[part])} now")
        elif was[part].get("class") != is_now[part].get("class"):
            changes.append(f"the part {part} was {_who(was[part])} and is {_who(is_now[part])} now")
        elif was[part].get("sha256") != is_now[part].get("sha256"):
            changes.append(f"the part {part}: its file {is_now[part]['file']} has changed")
    return changes


def name_parts(described: Any) -> str:
    """Return recorded parts in words: `attention (attention.py), mlp (mlp.py)`."""
    return ", ".join(f"{part} ({one.get('file')})" for part, one in _by_name(described).items())


def part_names(described: Any) -> list[str]:
    """Return the names of recorded parts."""
    return list(_by_name(described))


def _by_name(described: Any) -> dict[str, dict[str, Any]]:
    """Return records by their part; another program may have written anything there."""
    if not isinstance(described, list):
        return {}
    return {str(one["part"]): one for one in described if isinstance(one, dict) and "part" in one}


def _who(one: Mapping[str, Any]) -> str:
    return f"{one.get('class')} of {one.get('file')}"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

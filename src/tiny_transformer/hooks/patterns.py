"""Names of parameters and patterns for them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

_BLOCK = re.compile(r"blocks\.(\d+)(?:\.|$)")


def matches(pattern: str, name: str) -> bool:
    """Return whether a pattern matches a dotted name, or a leading part of it.

    `*` stands for any characters, dots too: `blocks.0`, `blocks.*.mlp`, `*.bias`.
    """
    if fnmatchcase(name, pattern):
        return True
    return any(fnmatchcase(name[: dot.start()], pattern) for dot in re.finditer(r"\.", name))


def matching(patterns: Iterable[str], name: str) -> list[str]:
    """Return the patterns that match a name."""
    return [pattern for pattern in patterns if matches(pattern, name)]


def layer_of(name: str) -> int | None:
    """Return the index of the block that a module or parameter lies in, or None."""
    found = _BLOCK.match(name)
    return int(found[1]) if found else None

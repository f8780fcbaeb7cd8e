"""A JSON file that may be damaged, read with a reason where it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tiny_transformer.runtime.errors import VocabularyError

Refuse = Callable[[str], VocabularyError]
"""Makes the error of a reason."""


def read_json(path: Path, refuse: Refuse, data: bytes | None = None) -> Any:
    """Return the value in a JSON file, in which no name stands twice in an object.

    Args:
        path: the file.
        refuse: makes the error that is raised where it cannot be read.
        data: its content, where that has been read already.
    """
    try:
        text = (path.read_bytes() if data is None else data).decode("utf-8")
        return json.loads(text, object_pairs_hook=_once)
    except FileNotFoundError:
        raise refuse("there is no such file.") from None
    except OSError as error:
        raise refuse(f"it cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError as error:
        raise refuse(f"it is not UTF-8 text ({error.reason} at byte {error.start}).") from None
    except json.JSONDecodeError as error:
        raise refuse(
            f"it is not whole JSON ({error.msg} at line {error.lineno}, column {error.colno})."
        ) from None
    except (ValueError, RecursionError) as error:
        raise refuse(f"it is not sound JSON ({error}).") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object and refuse a name that stands in it twice."""
    built = dict(pairs)
    if len(built) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice!r} stands twice in one object")
    return built

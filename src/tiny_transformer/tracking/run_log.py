"""The run log: one JSON object a line, each saying which run it belongs to."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from tiny_transformer.runtime.errors import RunError
from tiny_transformer.runtime.files import Writer


def _finite(value: Any) -> Any:
    """JSON has no NaN or infinity: write them as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value


class RunLog:
    """Appends events to `log.jsonl`.

    Args:
        path: the log; it is created, or continued.
        identity: fields of every line: `run_id`, `config_hash`, `git_commit`.
    """

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self._identity = identity
        self._writer = Writer(path, append=True)
        if path.stat().st_size and not path.read_bytes().endswith(b"\n"):
            self._writer.write(b"\n")  # a line that a crash cut short stays apart

    def write(self, event: str, step: int, **fields: Any) -> None:
        """Append one line: the identity, `step`, `event`, and the fields."""
        line = _finite({**self._identity, "step": step, "event": event, **fields})
        text = json.dumps(line, ensure_ascii=False) + "\n"
        # A file name that is not UTF-8 reads as lone surrogates; JSON escapes those.
        self._writer.write(text.encode("utf-8", "backslashreplace"))

    def close(self) -> None:
        """Make sure that every line is on the disk, and close the file."""
        self._writer.sync()
        self._writer.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a run log; a line that a crash cut short is left out.

    Raises:
        RunError: there is no log at `path`.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise RunError(f"The run log {path} cannot be read: {error.strerror}.") from None
    lines = []
    for text_line in text.split("\n"):  # splitlines would also cut at U+2028 in a text
        try:
            line = json.loads(text_line)
        except ValueError:
            continue
        if isinstance(line, dict):
            lines.append(line)
    return lines


def metric_by_step(lines: list[dict[str, Any]], event: str, name: str) -> dict[int, float]:
    """Return `{step: value}` of one metric; of two lines for a step the later one counts."""
    found = {
        line["step"]: float(line[name])
        for line in lines
        if line.get("event") == event and name in line
    }
    return dict(sorted(found.items()))

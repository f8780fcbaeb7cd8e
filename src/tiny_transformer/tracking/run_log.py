"""The run log: one JSON object a line, each chained to the one before it.

A line ends in `"chain": "<SHA-256 of the last line's chain and of this line>"}`. Whoever
changes, drops or moves a line breaks the chain at that place, and `check_chain` names it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiny_transformer.runtime.errors import RunError
from tiny_transformer.runtime.files import Writer

GENESIS = "0" * 64  # the chain before the first line
_LINK = re.compile(rb'^(\{.*), "chain": "([0-9a-f]{64})"\}$')


def bits_of(value: float) -> str:
    """Return the 64 bits of a float as 16 hex digits, sign and exponent first."""
    return struct.pack(">d", value).hex()


def float_of(bits: str) -> float:
    """Return the float of 16 hex digits, as `bits_of` writes them."""
    return struct.unpack(">d", bytes.fromhex(bits))[0]


def _finite(value: Any) -> Any:
    """JSON has no NaN or infinity: write them as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value


def _link(chain: str, content: bytes) -> str:
    return hashlib.sha256(chain.encode() + b"\n" + content).hexdigest()


class RunLog:
    """Appends events to `log.jsonl`.

    Args:
        path: the log; it is created, or continued.
        identity: fields of every line: `run_id`, `config_hash`, `git_commit`.

    Attributes:
        chain: of the last line; the checkpoint remembers it.
    """

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self._identity = identity
        self._writer = Writer(path, append=True)
        self.chain, line = GENESIS, b"\n"
        with path.open("rb") as written:
            for line in written:
                found = _LINK.match(line.rstrip(b"\n"))
                self.chain = found[2].decode() if found else self.chain
        if not line.endswith(b"\n"):
            self._writer.write(b"\n")  # a line that a crash cut short stays apart

    def write(self, event: str, step: int, **fields: Any) -> None:
        """Append one line: the identity, `step`, `event`, and the fields."""
        line = _finite({**self._identity, "step": step, "event": event, **fields})
        # A file name that is not UTF-8 reads as lone surrogates; JSON escapes those.
        text = json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace")
        content = text.removesuffix(b"}")
        chain = _link(self.chain, content)
        self._writer.write(content + f', "chain": "{chain}"}}\n'.encode())
        self.chain = chain

    def sync(self) -> None:
        """Wait until every line is on the disk."""
        self._writer.sync()

    def close(self) -> None:
        """Make sure that every line is on the disk, and close the file."""
        try:
            self._writer.sync()
        finally:
            self._writer.close()


@dataclass(frozen=True)
class ChainReport:
    """What a look at a log's chain found.

    Attributes:
        lines: whole lines.
        torn: numbers of lines that a crash cut short, from 1.
        broken: number of the first line that is not what was written there; None if all are.
        chains: the chain of each line that is as it was written.
    """

    lines: int
    torn: list[int]
    broken: int | None
    chains: frozenset[str]


def check_chain(path: Path) -> ChainReport:
    """Follow the chain of a log from its first line.

    What a crash cuts short is one unfinished line, which the next line's chain passes over.
    Lines taken away from the end leave no trace in the log; checkpoints remember the
    chain of the line before them, and `tiny runs verify` looks for it.

    Raises:
        RunError: there is no log at `path`.
    """
    chain, torn, chains = GENESIS, [], [GENESIS]
    for number, line in _numbered(path):
        found = _LINK.match(line)
        if found is None and not _is_json(line):
            torn.append(number)
        elif found is None or _link(chain, found[1]) != found[2].decode():
            # What looked torn may have been a whole line, which this one is chained to.
            broken = torn[-1] if torn and torn[-1] == number - 1 else number
            return ChainReport(len(chains) - 1, torn, broken, frozenset(chains))
        else:
            chain = found[2].decode()
            chains.append(chain)
    return ChainReport(len(chains) - 1, torn, None, frozenset(chains))


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _numbered(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a log that are not empty, with their numbers from 1."""
    for number, line in enumerate(_read(path).split(b"\n"), start=1):
        if line:
            yield number, line


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RunError(f"The run log {path} cannot be read: {error.strerror}.") from None


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a run log; a line that a crash cut short is left out.

    Raises:
        RunError: there is no log at `path`.
    """
    lines = []
    # Not splitlines, which would also cut at U+2028 in a text.
    for text_line in _read(path).decode("utf-8", "replace").split("\n"):
        try:
            line = json.loads(text_line)
        except ValueError:
            continue
        if isinstance(line, dict):
            lines.append(line)
    return lines


def current_lines(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the lines that count: a run that is resumed makes what came after that step anew."""
    current: list[dict[str, Any]] = []
    for line in lines:
        if line.get("event") == "resume":
            current = [earlier for earlier in current if earlier["step"] <= line["step"]]
        if isinstance(line.get("step"), int):
            current.append(line)
    return current


def metric_by_step(lines: list[dict[str, Any]], event: str, name: str) -> dict[int, float]:
    """Return `{step: value}` of one metric; of two lines for a step the later one counts."""
    found = {
        line["step"]: float(line[name])
        for line in lines
        if line.get("event") == event and name in line
    }
    return dict(sorted(found.items()))

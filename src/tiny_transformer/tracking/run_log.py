"""The run log: one JSON object a line, each chained to the one before it.

A line ends in `"chain": "<SHA-256 of the last line's chain and of this line>"}`. Whoever
changes, drops or moves a line breaks the chain at that place, and `check_chain` names it.
A line that a crash cut short is a link of its own: what is written after it vouches for it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tiny_transformer.runtime.errors import RunError
from tiny_transformer.runtime.files import Writer

GENESIS = "0" * 64  # the chain before the first line
_LINK = re.compile(rb'(\{.*), "chain": "([0-9a-f]{64})"\}')
_ITS_CHAIN = re.compile(rb'"chain": "[0-9a-f]{64}')
_PAST_ITS_CHAIN = re.compile(_ITS_CHAIN.pattern + b'".')  # no line was ever cut short there


def bits_of(value: float) -> str:
    """Return the 64 bits of a float as 16 hex digits, sign and exponent first."""
    return struct.pack(">d", value).hex()


def float_of(bits: str) -> float:
    """Return the float of 16 hex digits, as `bits_of` writes them."""
    return struct.unpack(">d", bytes.fromhex(bits))[0]


def finite(value: Any) -> Any:
    """Return `value` with NaN and infinity as text, at any depth: JSON has no such numbers."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {name: finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
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
                text = line.removesuffix(b"\n")
                found = _LINK.fullmatch(text)
                self.chain = found[2].decode() if found else _link(self.chain, text)
        # A line that a crash cut short stays apart.
        self._before = b"" if line.endswith(b"\n") else b"\n"

    def write(self, event: str, step: int, **fields: Any) -> None:
        """Append one line: the identity, `step`, `event`, and the fields."""
        line = finite({**self._identity, "step": step, "event": event, **fields})
        # A file name that is not UTF-8 reads as lone surrogates; JSON escapes those.
        text = json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace")
        content = text.removesuffix(b"}")
        chain = _link(self.chain, content)
        self._writer.write(self._before + content + f', "chain": "{chain}"}}\n'.encode())
        self.chain, self._before = chain, b""

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

    What a crash cuts short is one unfinished line, which is passed over. Lines taken away
    from the end leave no trace in the log; checkpoints remember the chain of the line
    before them, and `tiny runs verify` looks for it.

    Raises:
        RunError: there is no log at `path`.
    """
    chain, chains = GENESIS, [GENESIS]
    torn: list[int] = []
    waiting: list[bytes] = []  # what may have been cut short, since the last whole line
    text, ended, number = b"", True, 0
    with _opened(path) as log:
        for number, line in enumerate(log, start=1):
            text, ended = line.removesuffix(b"\n"), line.endswith(b"\n")
            found = _LINK.fullmatch(text)
            if found is None and not _is_json(text):
                waiting.append(text)
                torn.append(number)
                continue
            content, wanted = (found[1], found[2].decode()) if found else (text, "")
            if _link(functools.reduce(_link, waiting, chain), content) != wanted:
                cut_short = all(_looks_cut_short(piece, text) for piece in waiting)
                if waiting and (_link(chain, content) == wanted or not cut_short):
                    number = torn[-len(waiting)]
                return ChainReport(len(chains) - 1, torn, number, frozenset(chains))
            chain, waiting = wanted, []
            chains.append(chain)
    # A crash leaves no line break behind, and nothing that goes on after a line's own chain.
    cut_short = not ended and not _PAST_ITS_CHAIN.search(text)
    broken = torn[-len(waiting)] if waiting and not cut_short else None
    return ChainReport(len(chains) - 1, torn, broken, frozenset(chains))


def _looks_cut_short(text: bytes, following: bytes) -> bool:
    """Return whether what is no line was cut short rather than changed, as far as one can tell."""
    begun = text.startswith(following[:4]) and not text.endswith(b"}")
    return begun and not _ITS_CHAIN.search(text)


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as log:
            yield log
    except OSError as error:
        raise RunError(f"The run log {path} cannot be read: {error.strerror}.") from None


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a run log; a line that a crash cut short is left out.

    Raises:
        RunError: there is no log at `path`.
    """
    lines = []
    with _opened(path) as log:
        for text in log:  # cut at line breaks alone, not at U+2028 in a text
            try:
                line = json.loads(text.decode("utf-8", "replace"))
            except (ValueError, RecursionError):
                continue
            if isinstance(line, dict):
                lines.append(line)
    return lines


def current_lines(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the lines that count: a run that is resumed makes what came after that step anew."""
    current: list[dict[str, Any]] = []
    for line in lines:
        if type(line.get("step")) is not int:
            continue
        if line.get("event") == "resume":
            current = [earlier for earlier in current if earlier["step"] <= line["step"]]
        current.append(line)
    return current


def metric_by_step(lines: list[dict[str, Any]], event: str, name: str) -> dict[int, float]:
    """Return `{step: value}` of one metric; of two lines for a step the later one counts."""
    found = {}
    for line in lines:
        if line.get("event") == event and name in line and type(line.get("step")) is int:
            value = _number(line[name])
            if value is not None:
                found[line["step"]] = value
    return dict(sorted(found.items()))


def _number(value: Any) -> float | None:
    """Return a number as `finite` may have left it; None for what is none."""
    if isinstance(value, str) and value not in ("nan", "inf", "-inf"):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None

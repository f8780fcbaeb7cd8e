"""What a caller wrote as an argument, and on which line: for errors that quote it."""

from __future__ import annotations

import ast
import itertools
import linecache
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType

_LONGEST = 40  # characters of an expression that is still quoted


@dataclass(frozen=True)
class CallSite:
    """A call in somebody's source. The source is read only when it is to be quoted.

    Attributes:
        code: of the function or module that calls.
        instruction: the offset of the call in its bytecode.
        line: its number, from 1.
    """

    code: CodeType
    instruction: int
    line: int

    @classmethod
    def of(cls, frame: FrameType) -> CallSite:
        """Return the call that `frame` is in the middle of."""
        return cls(frame.f_code, frame.f_lasti, frame.f_lineno)

    def first_argument(self) -> str:
        """Return the source of the first argument; `""` where it is unknown or long."""
        try:
            parsed = ast.parse(f"({self._source()})", mode="eval").body
        except (SyntaxError, ValueError):
            return ""
        if not isinstance(parsed, ast.Call) or not parsed.args:
            return ""
        if isinstance(parsed.args[0], ast.Starred):
            return ""
        text = ast.unparse(parsed.args[0])
        return text if len(text) <= _LONGEST else ""

    def _source(self) -> str:
        """Return the text of the call, by the positions that Python keeps for tracebacks."""
        positions = itertools.islice(self.code.co_positions(), self.instruction // 2, None)
        first, last, start, end = next(positions, (None,) * 4)
        if first is None or last is None or start is None or end is None:
            return ""
        name = self.code.co_filename
        lines = [linecache.getline(name, n).encode() for n in range(first, last + 1)]
        lines[-1] = lines[-1][:end]  # columns are counted in bytes
        lines[0] = lines[0][start:]
        return b"".join(lines).decode(errors="replace")

    def place(self, seen_from: CallSite) -> str:
        """Return `line 3`, with the file's name where it is not that of `seen_from`."""
        file = self.code.co_filename
        if file == seen_from.code.co_filename:
            return f"line {self.line}"
        if file.startswith("<") or "ipykernel" in file:
            return f"line {self.line} of another cell"
        return f"line {self.line} of {Path(file).name}"

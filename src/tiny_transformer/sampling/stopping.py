"""Where a text ends: before the first stop text in it, which may come in pieces."""

from __future__ import annotations

from collections.abc import Sequence


class StoppableText:
    """A text that grows and ends before the first stop text in it.

    Args:
        stop: the stop texts, none of them empty.

    Attributes:
        text: what is certain so far: no stop text begins in it.
        stopped: whether a stop text has come.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = stop
        self._held = ""  # may be the beginning of a stop text
        self.text = ""
        self.stopped = False

    def add(self, piece: str) -> str:
        """Take the next piece; return what has become certain."""
        if self.stopped:
            return ""
        if not self._stop:
            self.text += piece
            return piece
        self._held += piece
        found = [at for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            return self._release(min(found))
        longest = max(map(len, self._stop), default=1)
        for start in range(max(0, len(self._held) - longest + 1), len(self._held)):
            if any(stop.startswith(self._held[start:]) for stop in self._stop):
                return self._release(start)
        return self._release(len(self._held))

    def end(self) -> str:
        """Nothing more will come; return what was held back."""
        return "" if self.stopped else self._release(len(self._held))

    def _release(self, length: int) -> str:
        released, self._held = self._held[:length], self._held[length:]
        self.text += released
        return released

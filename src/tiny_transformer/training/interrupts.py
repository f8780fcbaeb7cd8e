"""Ctrl-C and SIGTERM as a wish to stop, honoured between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from tiny_transformer.runtime.errors import TinyError


class InterruptedRunError(TinyError):
    """A run that was asked to stop, and has saved its state."""

    exit_status = 130


class StopRequested(Exception):  # noqa: N818 - a signal, not an error
    """Raised at a safe point after a stop was asked for."""


class StopSignal:
    """Catches SIGINT and SIGTERM inside a `with` block; a second one stops at once."""

    def __init__(self) -> None:
        self.pending = False
        self._previous: dict[int, Any] = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.pending:
            raise KeyboardInterrupt
        self.pending = True

    def check(self, *_: object) -> None:
        """Raise `StopRequested` if a stop was asked for; call it where stopping is safe."""
        if self.pending:
            raise StopRequested

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

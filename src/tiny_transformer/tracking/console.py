"""What a run shows while it goes: a progress bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

_PLAIN_SECONDS = 10.0  # between plain progress lines


class ConsoleReporter:
    """Shows steps, evaluations and samples.

    Args:
        console: where to write; standard error by default, so that output can be piped.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._progress: Progress | None = None
        self._last_plain = -_PLAIN_SECONDS
        self._val = ""
        self._timed: tuple[int, float] | None = None  # the first step shown, and when

    def start(self, first_step: int, last_step: int) -> None:
        """Begin to show steps from `first_step` (done before) to `last_step`."""
        self._last_step, self._timed = last_step, None
        if self.console.is_terminal:
            self._progress = Progress(
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(bar_width=None),
                TextColumn("loss {task.fields[loss]}{task.fields[val]}"),
                TextColumn("{task.fields[rate]} tokens/s"),
                TimeRemainingColumn(),
                TextColumn("left"),
                console=self.console,
            )
            self._task = self._progress.add_task(
                "train", total=last_step, completed=first_step, loss="-", val="", rate="-"
            )
            self._progress.start()

    def step(self, step: int, metrics: dict[str, float]) -> None:
        """Show a finished training step."""
        loss, rate = f"{metrics['loss']:.3f}", f"{metrics['tokens_per_second']:,.0f}"
        if self._progress is not None:
            self._progress.update(self._task, completed=step, loss=loss, val=self._val, rate=rate)
            return
        now = time.monotonic()
        first, then = self._timed = self._timed or (step, now)
        if now - self._last_plain >= _PLAIN_SECONDS or step == self._last_step:
            self._last_plain = now
            text = f"step {step}/{self._last_step}  loss {loss}  {rate} tokens/s"
            if step > first:  # the first step is slower than those that follow
                seconds_left = (now - then) / (step - first) * (self._last_step - step)
                text += f"  {format_seconds(seconds_left)} left"
            self.message(text)

    def evaluation(self, step: int, metrics: dict[str, Any]) -> None:
        """Show a validation loss."""
        self._val = f"  val {metrics['val_loss']:.3f}"
        told = f"bits per character {metrics['bits_per_char']:.3f}"
        if metrics.get("bits_per_byte", metrics["bits_per_char"]) != metrics["bits_per_char"]:
            told += f"  per byte {metrics['bits_per_byte']:.3f}"
        self.message(
            f"step {step}  validation loss {metrics['val_loss']:.4f}  perplexity "
            f"{metrics['val_perplexity']:.2f}  {told}"
        )

    def sample(self, step: int, text: str) -> None:
        """Show the beginning of a sample text, on one line."""
        line = " ".join(text.split())
        self.message(f"step {step}  sample: {line[:90]}{'...' if len(line) > 90 else ''}")

    def message(self, text: str) -> None:
        """Show a line of text as it is."""
        self.console.print(Text(text), soft_wrap=True)

    def close(self) -> None:
        """Stop the progress bar and leave the terminal as it was."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def format_seconds(seconds: float) -> str:
    """Return `1:05` for 65 seconds and `2:00:05` for 7205."""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
